# shellcheck shell=bash
#
# What one would use instead. Sourced by bench/run.
#
# A peer is a way to publish events and to keep the read table bench.kept, which sums up orders, in a database of
# its own: peers/NAME.sql makes it, by the words that peers/common.sql explains. Peers that have to be installed
# take part where that works:
#
#     PgQ       where the server has it; else Debian's packages are unpacked into the workspace, for Debian's servers
#     Emmett, a loop woken by NOTIFY    from npm into the workspace, where there is node
#     pg_ivm, pg_incremental, pgmq      where the server has them
#     PgQue     where the variable PGQUE_SQL names its file, pgque.sql, which is all of it

emmett_version=0.42.0 pg_version=8.23.1

declare -A peer_meaning=(
	[plain]="plain insert" [plain__again]="plain insert, measured once more"
	[plain__bare]="plain insert without transaction ids"
	[noop]="a row trigger that does nothing" [row_trigger]="row trigger"
	[statement_trigger]="statement trigger" [async]="async view" [inline]="inline view"
	[async__apart]="async view, processed afterwards" [inline__quiet]="inline view without notifications" [loop]="polling loop"
	[slices]="by hand in slices of 10,000" [once]="by hand in one bare statement"
	[woken]="loop woken by NOTIFY" [pg_ivm]="pg_ivm" [pg_incremental]="pg_incremental" [pgmq]="pgmq" [pgque]="PgQue"
	[refresh]="REFRESH CONCURRENTLY" [pgq]="PgQ" [pgq__tuned]="PgQ, tuned for latency" [emmett]="Emmett"
)

# Brings the peers that are to be had into the workspace, before the server starts. Says which are not.
peers_install() {
	local major

	peers_dir=$workspace/peers
	as_server_user mkdir "$peers_dir"
	major=$(as_server_user "$pg_config" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
	if [ "$real_bindir" = "/usr/lib/postgresql/$major/bin" ] && [ ! -e "$(peers_extension pgq)" ]; then
		peers_unpack "postgresql-$major-pgq3" pgqd || true
	fi
	pgqd=$(PATH=$workspace/server/usr/bin:$PATH command -v pgqd || true)
	peer_takes_part pgq || say "Going on without PgQ"
	if [ -n "${PGQUE_SQL:-}" ]; then
		cp "$PGQUE_SQL" "$peers_dir/pgque.sql" || die "PGQUE_SQL=$PGQUE_SQL: there is no such file"
	fi

	if command -v node >/dev/null && command -v npm >/dev/null &&
		cp "$bench"/peers/*.mjs "$peers_dir" && echo '{"private": true}' >"$peers_dir/package.json" &&
		npm install --prefix "$peers_dir" --no-audit --no-fund "@event-driven-io/emmett-postgresql@$emmett_version" "pg@$pg_version" \
			>"$peers_dir/npm.log" 2>&1; then
		emmett=$peers_dir/emmett.mjs
	else
		emmett=
		say "Going on without Emmett and a loop woken by NOTIFY: node, npm or the network is missing"
	fi
}

# Prints the control file of an extension of the private server.
peers_extension() {
	echo "$(as_server_user "$pg_config" --sharedir)/extension/$1.control"
}

# Unpacks Debian packages into the private server, whose files lie as in Debian. Nothing is installed.
peers_unpack() (
	cd "$peers_dir" || exit
	apt-get download "$@" >/dev/null 2>&1 || exit
	for package in *.deb; do
		dpkg-deb -x "$package" "$workspace/server"
	done
)

# Prints the versions of those that take part, and which do not.
peers_versions() {
	run_psql -AtF ' ' -c "SELECT name, default_version FROM pg_available_extensions
		WHERE name IN ('pgq', 'pg_ivm', 'pg_incremental', 'pgmq') ORDER BY name"
	! peer_takes_part pgq || "$pgqd" -V
	! peer_takes_part pgque || sed -n 's/^-- Version: /pgque /p' "$peers_dir/pgque.sql"
	[ -z "$emmett" ] || echo "Emmett $emmett_version, pg $pg_version, node $(node --version)"
	[ -z "$(peers_absent)" ] || echo "not there: $(peers_absent)"
}

# Prints the names of the peers that can't take part.
peers_absent() {
	local name names=()

	for name in pgq pgmq pgque pg_incremental pg_ivm emmett woken; do
		peer_takes_part "$name" || names+=("${peer_meaning[$name]}")
	done
	(
		IFS=,
		echo "${names[*]}"
	) | sed 's/,/, /g'
}

# Tells whether a peer can take part.
peer_takes_part() {
	case $1 in
		pgq | pgq__*) [ -e "$(peers_extension pgq)" ] && [ -n "$pgqd" ] ;;
		pg_ivm | pg_incremental | pgmq) [ -e "$(peers_extension "$1")" ] ;;
		pgque) [ -e "$peers_dir/pgque.sql" ] ;;
		emmett | woken) [ -n "$emmett" ] ;;
	esac
}

# Keeps of a list of peers those that can take part, in the variable peers, and makes their databases. What follows finds
# no page that was not written since a checkpoint, but what it writes itself.
peers_create() {
	local name database

	peers=()
	for name in "$@"; do
		peer_takes_part "$name" || continue
		peers+=("$name")
		database=peer_$name
		run_psql -c "CREATE DATABASE $database"
		sql <"$bench/plain.sql"
		sql <"$bench/peers/common.sql"
		peer_sql "$name"
	done
	run_psql -c CHECKPOINT
}

peers_drop() {
	for name in "${peers[@]}"; do
		run_psql -c "DROP DATABASE peer_$name WITH (FORCE)"
	done
}

# Makes what is a peer's own.
peer_sql() {
	local kind=${1%%__*}

	case $kind in
		async | inline)
			sql -v mode="$kind" <"$bench/peers/view.sql"
			[ "$1" != inline__quiet ] ||
				sql <<<"SELECT cqrs.alter_projection('kept', notify => 'none') \g /dev/null"
			sql -v events=cqrs.outbox <"$bench/peers/table.sql"
			;;
		emmett)
			node "$emmett" schema "$(peer_url)"
			sql <"$bench/peers/emmett.sql"
			;;
		pgq | pgmq) sql <"$bench/peers/$kind.sql" ;;
		pgque)
			{
				echo 'SET client_min_messages = warning;'
				cat "$peers_dir/pgque.sql"
			} | sql -1 >/dev/null
			sql <"$bench/peers/pgque.sql"
			;;
		woken)
			sql <"$bench/peers/loop.sql"
			sql <"$bench/peers/woken.sql"
			sql -v events=bench.plain_outbox <"$bench/peers/table.sql"
			;;
		slices | once)
			sql -v slice="$([ "$kind" = slices ] && echo 10000 || echo 1000000000)" <"$bench/peers/floor.sql"
			sql -v events=bench.plain_outbox <"$bench/peers/table.sql"
			;;
		*)
			[ "$kind" = plain ] || sql <"$bench/peers/$kind.sql"
			[ "$1" != plain__bare ] || sql <<<'ALTER TABLE bench.plain_outbox DROP COLUMN xid'
			sql -v events=bench.plain_outbox <"$bench/peers/table.sql"
			;;
	esac
}

peer_url() {
	echo "postgresql://postgres@localhost/$database?host=$socket_dir&application_name=consumer&options=-c%20synchronous_commit%3Doff"
}

# Starts what keeps a peer's read table, if it is not kept by the publishers, and waits until it is at work, so that
# nobody's start is measured. A name's part after "__" says how often it looks: "tuned" for latency; else it is what is
# usual. With "apart" a worker is there, for publishers to wake, and stands still until peer_go_on.
peer_start() {
	consumers=()
	case $1 in
		async* | inline*) workers on ;;
		loop* | refresh* | pgmq* | pg_incremental*) peer_consume '10 ms' ;;
		woken*)
			start_job node "$peers_dir/woken.mjs" "$(peer_url)" >"$peers_dir/woken.log" 2>&1
			consumers+=("$started")
			;;
		pgque*)
			peer_call 'bench.tick()'
			peer_consume '100 ms'
			;;
		pgq__tuned)
			sql <<<"SELECT pgq.set_queue_config('bench', 'ticker_max_lag', '1 ms')" >/dev/null
			peer_pgqd 0.01
			peer_consume '10 ms'
			;;
		pgq*)
			peer_pgqd 1
			peer_consume '1 s'
			;;
		emmett*)
			# It was ended without being asked whether it has a lock.
			sql <<<"UPDATE emt_processors SET status = 'stopped'"
			start_job node "$emmett" consume "$(peer_url)" 100 50 >"$peers_dir/emmett.log" 2>&1
			consumers+=("$started")
			;;
	esac
	case $1 in
		async* | inline*) peer_workers_wait ;;
		*) peer_consumers_wait ;;
	esac
	[ "$1" != async__apart ] || kill -STOP "$(sleeping_worker)"
}

# Has the worker go on that stands still.
peer_go_on() {
	peer_watch_consumers
	kill -CONT "$seen"
}

# Waits until each consumer that was started has connected.
peer_consumers_wait() {
	until [ "$(run_psql -Atc "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'consumer'")" -ge \
		${#consumers[@]} ]; do sleep 0.1; done
}

# Waits until the workers of all peers that have one, this one's and others', have nothing to do.
peer_workers_wait() {
	local peer expected=0

	for peer in "${peers[@]}"; do
		case $peer in async* | inline*) expected=$((expected + 1)) ;; esac
	done
	until [ "$(sql <<<"SELECT count(*) FROM cqrs.worker_status
		WHERE database LIKE 'peer%' AND activity LIKE 'waiting%'")" = "$expected" ]; do sleep 0.1; done
}

# Has Emmett's consumer go on until it finds nothing more, in batches of so many. Prints how many milliseconds that
# took once node was there.
peer_drain_emmett() {
	sql <<<"UPDATE emt_processors SET status = 'stopped'"
	node "$emmett" consume "$(peer_url)" "$1" 0 2>"$peers_dir/emmett.log"
}

# Starts a session that consumes, napping when there is nothing.
peer_consume() {
	peer_call "bench.consume('$1')"
}

# Starts a session that calls a procedure which does not return.
peer_call() {
	start_job as_server_user env PGOPTIONS="-c synchronous_commit=off" PGAPPNAME=consumer \
		"$bindir/psql" -X -q -d "$database" -c "CALL $1" >>"$peers_dir/consumer.log" 2>&1
	consumers+=("$started")
}

# Starts PgQ's daemon, looking that often, in seconds.
peer_pgqd() {
	cat >"$peers_dir/pgqd.ini" <<-INI
		[pgqd]
		base_connstr = host=$socket_dir user=postgres application_name=consumer options='-c synchronous_commit=off'
		initial_database = $database
		database_list = $database
		logfile = $peers_dir/pgqd.log
		pidfile = $peers_dir/pgqd.pid
		ticker_period = $1
	INI
	start_job as_server_user "$pgqd" -q "$peers_dir/pgqd.ini" >/dev/null
	consumers+=("$started")
}

# Ends what was started. A session goes on for a while when only its client is gone.
peer_stop() {
	local pid

	run_psql -c 'SET client_min_messages = error' -Atc "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
		WHERE application_name = 'consumer'" >/dev/null
	for pid in "${consumers[@]}"; do
		end_group "$pid"
		wait "$pid" 2>/dev/null || true
	done
	case $1 in
		async* | inline*) workers off ;;
	esac
}

# Waits until the read table has so many events. Gives up after ten seconds without progress, and with Emmett, who may
# have skipped some, after two. Sets kept to how many it has.
peer_wait() {
	local patience=10 last=-1 since=$SECONDS

	[[ $1 != emmett* ]] || patience=2
	until
		watch 'SELECT coalesce(sum(items), 0) FROM bench.kept'
		kept=$seen
		[ "$kept" -ge "$2" ]
	do
		[ "$kept" = "$last" ] || since=$SECONDS
		[ $((SECONDS - since)) -lt "$patience" ] || break
		last=$kept
		sleep 0.1
	done
}

# Sets seen to the process ids of those that consume: the extension's, and sessions that call themselves consumer.
peer_watch_consumers() {
	watch "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity
		WHERE application_name = 'consumer' OR backend_type = 'cqrs_views worker' AND datname = current_database()"
}

# Prints how many milliseconds these together have had the processor.
peer_consumer_cpu() {
	local pid

	for pid in $1; do
		process_cpu "$pid" 2>/dev/null || true
	done | awk '{ sum += $1 } END { printf "%.3f\n", sum }'
}

# Ends the run unless peers' read tables show what was sent, row by row; but for Emmett's, who may skip some. Of pgmq,
# which does not keep what was sent, only the number is known.
peers_compare() {
	local peer database sent kept

	for peer in "${peers[@]}"; do
		database=peer_$peer
		case $peer in
			plain* | noop | emmett) continue ;;
			pgmq)
				sent="SELECT count(*) FROM bench.sent"
				kept="SELECT coalesce(sum(items), 0) FROM bench.kept"
				;;
			*)
				sent="SELECT bench.checksum_of('SELECT order_id, count(*), round(sum(price), 2) FROM bench.sent GROUP BY order_id')"
				kept="SELECT bench.checksum_of('SELECT order_id, items, round(total, 2) FROM bench.kept')"
				;;
		esac
		same_work "read table of $peer" "$(sql <<<"$sent")" "$(sql <<<"$kept")"
	done
}
