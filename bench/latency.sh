# shellcheck shell=bash
#
# Suite latency: from commit to visible. Sourced by bench/run.
#
# First with others: one session publishes, and the commit timestamp of whoever keeps the read table tells when an event
# was there. Then as a client sees it that is in a hurry, without a network: one session publishes, another reads the
# read table over and over. Beside it a projection that is polled every 100 ms, and a publisher that waits for its own
# events by cqrs.wait_for. In both, a plain insert's commit has turns of its own.

suite_latency() {
	latency_of_peers
	sql <"$bench/latency.sql"
	latency_seen on
	latency_seen off
}

# Measures what clients see, 50 events a second. Argument: the publisher's synchronous_commit.
latency_seen() {
	local seconds rounds i way values
	declare -A medians=() high=()

	commit=$1
	part "50 events a second, seen by a reader, synchronous_commit=$commit"
	seconds=$(size 10 5)
	rounds=3

	# The first round only warms up.
	for ((i = 0; i <= rounds; i++)); do
		for way in plain reader wait_for poll; do
			latency_of "$way" $((50 * seconds))
			[ "$i" -gt 0 ] || continue
			values=$(sql <<-'SQL'
				SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) || ' ' ||
				       percentile_cont(0.95) WITHIN GROUP (ORDER BY ms)
				FROM (SELECT extract(epoch FROM seen.at - published.at)::float8 * 1000 AS ms
				      FROM bench.published JOIN bench.seen USING (i)) AS took
			SQL
			)
			medians[$way]+=" ${values% *}"
			high[$way]+=" ${values#* }"
		done
	done

	# shellcheck disable=SC2046,SC2086 # lists of numbers
	{
		figure "commit to visible, against a plain insert's commit" ratio "$([ "$commit" = off ] || echo '<= 2')" \
			$(quotients "${medians[reader]}" "${medians[plain]}")
		figure "a plain insert's commit: median" ms "" ${medians[plain]}
		figure "commit to visible, worker woken by the commit: median" ms "$([ "$commit" = on ] || echo '< 1')" ${medians[reader]}
		figure "commit to visible, worker woken by the commit: 95 % are quicker than" ms "" ${high[reader]}
		figure "commit to the return of cqrs.wait_for: median" ms "" ${medians[wait_for]}
		figure "commit to the return of cqrs.wait_for: 95 % are quicker than" ms "" ${high[wait_for]}
		figure "commit to visible, polled every 100 ms instead: median" ms "" ${medians[poll]}
		figure "commit to visible, polled every 100 ms instead: 95 % are quicker than" ms "" ${high[poll]}
	}
}

# Fills bench.published and bench.seen with so many samples of a way.
latency_of() {
	local poller= reader=

	sql >/dev/null <<-'SQL'
		SELECT cqrs.drop_projection(name) FROM cqrs.projection;
		TRUNCATE bench.by_engine, bench.plain_outbox, bench.published, bench.seen;
		SELECT cqrs.create_projection('bench', 'bench.keep(cqrs.event)', '{bench.by_engine}', start_at => 'now');
	SQL
	case $1 in
		plain) workers off ;;
		poll)
			workers off
			run_psql -d "$database" -c 'CALL bench.poll()' >/dev/null 2>&1 &
			poller=$!
			;;
		*)
			workers on
			sql <<<"SELECT cqrs.wait_for('bench', '1 minute')" >/dev/null
			;;
	esac
	case $1 in
		reader | poll)
			sql <<<"CALL bench.look($2)" &
			reader=$!
			;;
	esac
	sql <<<"SET synchronous_commit = $commit; CALL bench.publish_steadily($2, '$1')"
	[ -z "$reader" ] || wait "$reader"
	if [ -n "$poller" ]; then
		sql <<<"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'CALL bench.poll()'" >/dev/null
		wait "$poller" || true
	fi
	same_work "samples of $1" "$(sql <<<"SELECT count(*) FROM bench.published JOIN bench.seen USING (i)")" "$2"
	if [ "$1" = plain ]; then
		same_work "events of $1" "$(sql <<<'SELECT count(*) FROM bench.plain_outbox')" "$2"
		return
	fi
	same_work "read table of $1" "$(sql <<<"SELECT count(*) FROM bench.by_engine WHERE items = 1 AND total = 1")" "$2"
}

# ---------------------------------------------------------------------------------------------------------
# Peers
# ---------------------------------------------------------------------------------------------------------

# One session publishes single events steadily. When an event became visible is told by the commit timestamp of the
# transaction that made its row in the read table: a little before anybody can see it, as it has yet to leave the
# transactions in progress.
latency_of_peers() {
	local peers next=0

	workers off
	peers_create plain async loop woken pgq__tuned pgq refresh emmett
	latency_part 50 on "$(size 200 100)"
	latency_part 50 off "$(size 200 100)"
	latency_part 1000 off "$(size 5000 2000)"
	latency_part 0 off "$(size 20000 3000)"
	peers_drop
	workers on
}

# Measures all peers at a rate, 0 being flat out. Arguments: the rate, the publisher's synchronous_commit, the events.
latency_part() {
	local rate=$1 commit=$2 events=$3 peer judged=
	declare -A commits=() rates=()

	# With less of a commit to compare it with, the rest says less about us.
	[ "$rate" != 50 ] || [ "$commit" != on ] || judged=1
	part "$([ "$rate" = 0 ] && echo "as many events as go" || echo "$rate events a second"), synchronous_commit=$commit"
	measure_in_turns latency 3 "${peers[@]}"
	peers_compare

	# Of the three numbers, the first is the median, the second processor time, the third what 95 % are below.
	# shellcheck disable=SC2046,SC2086 # lists of numbers
	{
		figure "async view: median against a plain insert's commit" ratio "${judged:+<= 2}" \
			$(quotients "${taken[async]}" "$(latency_counted "${commits[plain]}")")
		[ -z "${taken[pgq__tuned]:-}" ] ||
			figure "PgQ, tuned for latency: median against the async view's" ratio "${judged:+>= 15}" \
				$(quotients "${taken[pgq__tuned]}" "${taken[async]}")
		for peer in "${peers[@]}"; do
			figure "${peer_meaning[$peer]}: median" ms "" ${taken[$peer]}
		done
		for peer in "${peers[@]}"; do
			figure "${peer_meaning[$peer]}: 95 % are quicker than" ms "" ${applied[$peer]}
		done
		for peer in "${peers[@]}"; do
			figure "${peer_meaning[$peer]}: the publisher's own commit" ms "" $(latency_counted "${commits[$peer]}")
		done
		for peer in "${peers[@]}"; do
			figure "${peer_meaning[$peer]}: published" events/s "" $(latency_counted "${rates[$peer]}")
		done
		for peer in "${peers[@]}"; do
			figure "${peer_meaning[$peer]}: processor time of an event" us "" $(quotients "${used[$peer]}" "$events.0e-3")
		done
	}
}

# Prints a list without its first number, which is of the round that warms up.
latency_counted() {
	cut -d ' ' -f 3- <<<"$1"
}

latency_prepare() {
	:
}

latency_check() {
	next=$((next + events))
}

latency_measure() {
	local database=peer_$1 used kept own

	peer_start "$1"
	sql <<<'TRUNCATE bench.timed'
	watch_open
	used=$(server_cpu)
	sql <<-SQL
		SET synchronous_commit = $commit;
		CALL bench.publish_timed($events, $next, $rate);
	SQL
	[ "$1" = plain ] || peer_wait "$1" $((next + events))
	used=$(($(server_cpu) - used))
	watch_close
	peer_stop "$1"
	same_work "events that $1 has" "$(sql <<<'SELECT count(*) FROM bench.sent')" $((next + events))
	read -ra own < <(sql -F ' ' <<-'SQL'
		SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY 1000 * extract(epoch FROM committed - published)::float8),
		       (count(*) - 1) / extract(epoch FROM max(committed) - min(committed))
		FROM bench.timed
	SQL
	)
	commits[$1]+=" ${own[0]}"
	rates[$1]+=" ${own[1]}"
	if [ "$1" = plain ]; then
		echo "- $used -"
		return
	fi
	[ "$1" = emmett ] || same_work "samples of $1" "$events" \
		"$(sql <<<'SELECT count(*) FROM bench.timed JOIN bench.kept USING (order_id)')"
	sql -v used="$used" -F ' ' <<-'SQL'
		SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY 1000 * extract(epoch FROM visible - published)::float8), :used,
		       percentile_cont(0.95) WITHIN GROUP (ORDER BY 1000 * extract(epoch FROM visible - published)::float8)
		FROM (SELECT published, committed, pg_xact_commit_timestamp(kept.xmin) AS visible
		      FROM bench.timed JOIN bench.kept USING (order_id)) AS event
	SQL
}
