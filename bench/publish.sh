# shellcheck shell=bash
#
# Suite publish: what an event costs, from its publisher to the read table. Sourced by bench/run.
#
# Clients insert single rows, or 1,000 rows in a statement, by pgbench. Every peer has a database of its own; what
# keeps its read table runs meanwhile, on the same cores. Processor time is that of all of the server's processes,
# until the read table has everything.

suite_publish() {
	workers off
	# Vacuum falls on nobody's turn: it comes between the rounds.
	run_psql -c 'ALTER SYSTEM SET autovacuum = off' -c 'SELECT pg_reload_conf()' >/dev/null
	seconds=1 repetitions=$(size 8 3) commit=on
	for clients in $(size "1 8 16" 8); do
		publish_with_all 1 "$clients clients, single rows, synchronous_commit=on"
	done
	commit=off clients=8
	publish_with_all 1 "8 clients, single rows, synchronous_commit=off"
	commit=on seconds=$(size 2 1) repetitions=3
	for clients in $(size "1 8 16" 8); do
		publish_with_all 1000 "$clients clients, 1,000 rows a statement, synchronous_commit=on"
	done
}

# Measures a part with all peers, each in a new database. Arguments as of publish_part.
publish_with_all() {
	local peers

	peers_create plain plain__bare noop row_trigger statement_trigger async async__apart inline inline__quiet loop \
		pgq pgque pgmq pg_incremental pg_ivm emmett plain__again
	publish_part "$@"
	peers_drop
}

# Measures all peers: first those that targets compare, in rounds of their own, so that they follow each other closely,
# for a machine that others use, too, is another one after a minute; then the rest, beside the two views. Arguments:
# the rows of a statement, what the part is called.
publish_part() {
	local peer single="" near=() far=()
	declare -A sent=()

	rows=$1
	# Where all want one row, a plain insert is no measure of who updates it.
	[ "$rows" -ne 1 ] || [ -n "${keys:-}" ] || single=1
	for peer in "${peers[@]}"; do
		case $peer in
			plain* | row_trigger | statement_trigger | async* | inline | loop | pgq) near+=("$peer") ;;
			*) far+=("$peer") ;;
		esac
	done
	part "$2"
	measure_in_turns publish "$repetitions" "${near[@]}"
	peers_compare
	doubt_by plain__again plain
	speed_figure "async view, processed afterwards, against a plain insert" ">= 0.95" async__apart plain
	speed_figure "async view, processed at the same time, against a plain insert" "" async plain
	speed_figure "async view, against a polling loop" "" async loop
	speed_figure "inline view, against a plain insert" "${single:+>= 0.85}" inline plain
	speed_figure "inline view, against a statement trigger" ">= 1" inline statement_trigger
	speed_figure "row trigger, against a plain insert" "" row_trigger plain
	speed_figure "plain insert without transaction ids, against a plain insert" "" plain__bare plain
	speed_figure "plain insert, measured once more, against a plain insert" "" plain__again plain
	publish_costs "${near[@]}"
	if [ ${#far[@]} -gt 0 ]; then
		measure_in_turns publish $(((repetitions + 2) / 3)) inline "${far[@]}" async
		peers_compare
		speed_figure "inline view, against pg_ivm" ">= 1" inline pg_ivm
		speed_figure "inline view without notifications, against inline view" "" inline__quiet inline
		publish_skipped
		publish_costs "${far[@]}"
	fi
	doubt_by
}

# Notes how many events Emmett's consumer has skipped for ever: those that its read table lacks when it finds nothing
# more. Sets skipped to their share.
publish_skipped() {
	local database=peer_emmett

	[ -n "${taken[emmett]:-}" ] || return 0
	peer_drain_emmett 1000 >/dev/null
	skipped=$(sql <<-SQL
		SELECT round(100 - 100 * sum(items) / ${sent[emmett]}, 2) FROM bench.kept
	SQL
	)
	figure "Emmett: events that its consumer skips" % "" "$skipped"
}

# Notes what these peers need of the processor, and what the async view does against them: no target compares it with
# one who skipped a part of the work.
publish_costs() {
	local peer target

	for peer in "$@"; do
		target='< 1'
		case $peer in
			plain* | noop | async* | inline*) continue ;;
			emmett) [ "$skipped" = 0.00 ] || target= ;;
		esac
		cost_figure "processor time of async view, against ${peer_meaning[$peer]}" "$target" async "$peer"
	done
	for peer in "$@"; do
		rate_figures 1 "$peer" "${peer_meaning[$peer]}"
	done
}

# Before a round, what the last one left is vacuumed. With many rows a statement there is a checkpoint, too, so that none
# comes by itself; where a turn writes little, the whole pages after a checkpoint would be much of it, and be all of those
# who update rows, and one checkpoint at the beginning is enough.
publish_prepare() {
	local peer database

	for peer in "${peers[@]}"; do
		database=peer_$peer
		sql <<<'VACUUM (ANALYZE)'
	done
	[ "$rows" = 1 ] || run_psql -c CHECKPOINT
}

# Ends the run unless there is what pgbench says that it published, and all of it in read tables; but for Emmett's, see
# above.
publish_check() {
	local peer database

	for peer in "${peers[@]}"; do
		[ -n "${sent[$peer]:-}" ] || continue
		database=peer_$peer
		same_work "events that $peer has" "$(sql <<<'SELECT count(*) FROM bench.sent')" "${sent[$peer]}"
		case $peer in plain* | noop | emmett) continue ;; esac
		same_work "events in the read table of $peer" "$(sql <<<'SELECT coalesce(sum(items), 0) FROM bench.kept')" "${sent[$peer]}"
	done
}

publish_measure() {
	local database=peer_$1 peer=$1 kept=0 wait=publish_wait

	case $1 in plain* | noop) wait=: ;; esac
	[ "$wait" = : ] || kept=$(sql <<<'SELECT coalesce(sum(items), 0) FROM bench.kept')
	peer_start "$1"
	publish_by_pgbench "$1" "$wait"
	peer_stop "$1"
	sent[$1]=$((${sent[$1]:-0} + published))
}

# Waits until what was published has been processed. Sets processed to how much of it was.
publish_wait() {
	local before=$kept

	[ "$peer" != async__apart ] || peer_go_on
	peer_wait "$peer" $((kept + published))
	processed=$((kept - before))
}

# Has $clients publish statements of $rows rows for $seconds, $rate of them a second if that is set, with
# synchronous_commit as in $commit. Events are of $keys orders, 10,000 if that is not set. Prints how many
# milliseconds passed for each event, how many all of the server had the processor, and how many of these its
# consumers had. Sets published to how many events there were. Arguments: the peer, or a table like the outbox; a
# command that waits until all is processed, and sets processed to less where something was not.
publish_by_pgbench() {
	local output used consumers before

	watch_open
	peer_watch_consumers
	before=$(peer_consumer_cpu "$seen")
	used=$(server_cpu)
	output=$(publish_statement "$1" | as_server_user env "PGOPTIONS=-c synchronous_commit=$commit" "PGDATABASE=$database" \
		"$bindir/pgbench" -n -M prepared -D "begins=$publish_begins" -D "ends=$publish_ends" -c "$clients" -j 2 \
		-T "$seconds" ${rate:+-R "$rate"} -f - 2>&1) || die "pgbench failed: $output"
	published=$(awk -v rows="$rows" -F ': ' '/^number of transactions actually processed/ { print $2 * rows }' <<<"$output")
	processed=$published
	"$2"
	used=$(($(server_cpu) - used))
	peer_watch_consumers
	consumers=$(awk "BEGIN { print $(peer_consumer_cpu "$seen") - $before }")
	watch_close
	# A publisher who runs into a deadlock waits for a second, and pgbench goes on: that is no work.
	same_work "transactions of $1 that failed" 0 "$(sed -n 's/^number of failed transactions: \([0-9]*\) .*/\1/p' <<<"$output")"
	awk -v rows="$rows" -v used="$used" -v consumers="$consumers" -v published="$published" -v processed="$processed" '/^tps = / {
		applying = processed > 0 ? consumers / processed : 0
		printf "%.5f %.5f %s\n", 1000 / $3 / rows, (used - consumers) / published + applying,
			(consumers > 0 ? applying : "-") }' <<<"$output"
}

# What an event says, in about 200 bytes: what comes before its order, and after it. Publishers give both as parameters,
# as nobody's events are all the same, and the server reads each as JSON.
publish_begins='{"sku": "sku-1", "price": 12.5, "channel": "web", "comment": "please ring twice, number 123456", '
publish_begins+='"currency": "EUR", "customer": "customer-12345", "quantity": 1, "warehouse": "warehouse-1", "order": "order-'
publish_ends='"}'

# Prints the script by which pgbench publishes to a peer. A statement of many rows has as many orders, in their order,
# so that publishers don't run into deadlocks.
publish_statement() {
	local table=bench.plain_outbox order="'order-' || :id" payload=":begins || :id || :ends" many=

	echo "\set id random(0, $((${keys:-10000} - rows)))"
	if [ "$rows" -gt 1 ]; then
		order="'order-' || (:id + i)" payload=":begins || (:id + i) || :ends" many=1
	fi
	case $1 in
		async* | inline*) table=cqrs.outbox ;;
		*.*) table=$1 ;;
		pgq)
			publish_call "pgq.insert_event('bench', 'ItemAdded', $payload, $order, 'order', NULL, NULL)"
			return
			;;
		pgque)
			publish_sending pgque.send pgque.send_batch "'bench', 'ItemAdded', " text
			return
			;;
		pgmq)
			publish_sending pgmq.send pgmq.send_batch "'bench', " jsonb
			return
			;;
		emmett)
			publish_stream
			return
			;;
	esac
	echo "INSERT INTO $table (aggregate_type, aggregate_id, event_type, payload)
		SELECT 'order', $order, 'ItemAdded', ($payload)::jsonb ${many:+FROM generate_series(1, $rows) AS i};"
}

# Prints a statement that calls a function, or does so for each event.
publish_call() {
	if [ -z "$many" ]; then
		echo "SELECT $1;"
	else
		echo "SELECT count(*) FROM (SELECT $1 FROM generate_series(1, $rows) AS i OFFSET 0) AS published;"
	fi
}

# Prints a statement that sends one payload, or an array of them. Arguments: the function for one, the one for many, their
# first arguments, the payload's type.
publish_sending() {
	if [ -z "$many" ]; then
		echo "SELECT $1($3($payload)::$4);"
	else
		echo "SELECT count(*) FROM (SELECT $2($3 ARRAY(
			SELECT ($payload)::$4 FROM generate_series(1, $rows) AS i)) OFFSET 0) AS sent;"
	fi
}

# Prints a statement that appends events to one of Emmett's streams. Each client has streams of its own, as two that
# append to one at the same time would fail.
publish_stream() {
	local type

	echo "\set stream :id / $clients * $clients + :client_id"
	echo "SELECT emt_append_to_stream(ARRAY(SELECT gen_random_uuid()::text FROM generate_series(1, $rows))"
	echo ", ARRAY(SELECT (${payload//:id/:stream})::jsonb FROM generate_series(1, $rows) AS i)"
	for type in "'{}'::jsonb" "text '1'" "text 'ItemAdded'" "text 'E'"; do
		echo ", array_fill($type, ARRAY[$rows])"
	done
	echo ", 'order-' || :stream, 'order', NULL, 'emt' || chr(58) || 'default');"
}
