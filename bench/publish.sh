# shellcheck shell=bash
#
# Suite publish: what an event costs, from its publisher to the read table. Sourced by bench/run.
#
# Clients insert single rows, or 1,000 rows in a statement, by pgbench. Every peer has a database of its own; what
# keeps its read table runs meanwhile, on the same cores. Processor time is that of all of the server's processes,
# until the read table has everything.

suite_publish() {
	local peers

	workers off
	peers_create plain noop row_trigger statement_trigger async async__apart inline inline__quiet loop pgq pgque pgmq pg_incremental pg_ivm emmett plain__again
	seconds=1
	repetitions=$(size 8 2)
	commit=on
	for clients in $(size "1 8 16" 8); do
		publish_part 1 "$clients clients, single rows, synchronous_commit=on"
	done
	commit=off clients=8
	publish_part 1 "8 clients, single rows, synchronous_commit=off"
	commit=on seconds=$(size 2 1) repetitions=$(size 3 1)
	for clients in $(size "1 8 16" 8); do
		publish_part 1000 "$clients clients, 1,000 rows a statement, synchronous_commit=on"
	done
	publish_skipped
	peers_drop
}

# Notes how many events Emmett's consumer has skipped for ever: those that its read table lacks when it finds nothing
# more.
publish_skipped() {
	local database=peer_emmett

	peer_takes_part emmett || return 0
	peer_drain_emmett 1000 >/dev/null
	part "events in transactions that overlap"
	figure "Emmett: events that its consumer skips" % "" "$(sql <<-'SQL'
		SELECT round(100.0 * (bench.published() - (SELECT sum(items) FROM bench.kept)) / bench.published(), 2)
	SQL
	)"
}

# Measures all peers: first those that targets compare, in rounds of their own, so that they follow each other closely,
# for a machine that others use, too, is another one after a minute; then the rest, beside the two views. Arguments:
# the rows of a statement, what the part is called.
publish_part() {
	local peer single="" near=() far=()

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
	speed_figure "async view, processed afterwards, against a plain insert" ">= 0.95" async__apart plain
	speed_figure "async view, processed at the same time, against a plain insert" "" async plain
	speed_figure "inline view, against a plain insert" "${single:+>= 0.85}" inline plain
	speed_figure "inline view, against a statement trigger" ">= 1" inline statement_trigger
	speed_figure "row trigger, against a plain insert" "" row_trigger plain
	speed_figure "plain insert, measured once more, against a plain insert" "" plain__again plain
	publish_costs "${near[@]}"
	[ ${#far[@]} -gt 0 ] || return 0

	measure_in_turns publish $(((repetitions + 2) / 3)) inline "${far[@]}" async
	speed_figure "inline view, against pg_ivm" ">= 1" inline pg_ivm
	speed_figure "inline view without notifications, against inline view" "" inline__quiet inline
	publish_costs "${far[@]}"
}

# Notes what these peers need of the processor, and what the async view does against them.
publish_costs() {
	local peer

	for peer in "$@"; do
		case $peer in
			plain* | noop | async* | inline*) ;;
			*) cost_figure "processor time of async view, against ${peer_meaning[$peer]}" "< 1" async "$peer" ;;
		esac
	done
	for peer in "$@"; do
		rate_figures 1 "$peer" "${peer_meaning[$peer]}"
	done
}

publish_prepare() {
	:
}

# Ends the run unless read tables have what was published; but for Emmett's, see above.
publish_check() {
	local peer database

	for peer in "${peers[@]}"; do
		case $peer in plain* | noop | emmett) continue ;; esac
		database=peer_$peer
		same_work "events in the read table of $peer" "$(sql <<<'SELECT coalesce(sum(items), 0) FROM bench.kept')" \
			"$(sql <<<'SELECT bench.published()')"
	done
}

publish_measure() {
	local database=peer_$1 wait=peer_wait

	case $1 in
		plain* | noop) wait=: ;;
		*__apart) wait=publish_processed_afterwards ;;
	esac
	peer_start "$1"
	publish_by_pgbench "$1" "$wait"
	peer_stop "$1"
}

# Has a worker process what was published while there was none.
publish_processed_afterwards() {
	workers on
	peer_wait "$1"
}

# Has $clients publish statements of $rows rows for $seconds, $rate of them a second if that is set, with
# synchronous_commit as in $commit. Events are of $keys orders, 10,000 if that is not set. Prints how many
# milliseconds passed for each event, how many all of the server had the processor, and how many of these its
# consumers had. Arguments: the peer, or a table like the outbox; a command that waits until all is processed.
publish_by_pgbench() {
	local output used processed events

	used=$(server_cpu)
	processed=$(peer_consumer_cpu)
	output=$(publish_statement "$1" | as_server_user env "PGOPTIONS=-c synchronous_commit=$commit" \
		"PGDATABASE=$database" "$bindir/pgbench" -n -M prepared --max-tries=100 -c "$clients" -j 2 -T "$seconds" ${rate:+-R "$rate"} -f - 2>&1) ||
		die "pgbench failed: $output"
	"$2" "$1"
	used=$(($(server_cpu) - used))
	processed=$(($(peer_consumer_cpu) - processed))
	events=$(awk -v rows="$rows" -F ': ' '/^number of transactions actually processed/ { print $2 * rows }' <<<"$output")
	awk -v rows="$rows" -v used="$used" -v processed="$processed" -v events="$events" '/^tps = / {
		printf "%.5f %.5f %s\n", 1000 / $3 / rows, used / events, (processed > 0 ? processed / events : "-") }' <<<"$output"
}

# What an event says, in about 200 bytes.
publish_payload='{"sku": "sku-1", "price": 12.5, "channel": "web", "comment": "please ring twice, number 123456",
	"currency": "EUR", "customer": "customer-12345", "quantity": 1, "warehouse": "warehouse-1"}'

# Prints the script by which pgbench publishes to a peer. A statement of many rows has as many orders, in their order,
# so that publishers don't run into deadlocks; a few they try again.
publish_statement() {
	local table=bench.plain_outbox

	echo "\set id random(0, $((${keys:-10000} - rows)))"
	case $1 in
		async* | inline*) table=cqrs.outbox ;;
		*.*) table=$1 ;;
		pgq)
			publish_call "pgq.insert_event('bench', 'ItemAdded', '$publish_payload', ORDER, 'order', NULL, NULL)"
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
	echo "INSERT INTO $table (aggregate_type, aggregate_id, event_type, payload)"
	if [ "$rows" = 1 ]; then
		echo "VALUES ('order', 'order-' || :id, 'ItemAdded', '$publish_payload');"
	else
		echo "SELECT 'order', 'order-' || (:id + i), 'ItemAdded', '$publish_payload' FROM generate_series(1, $rows) AS i;"
	fi
}

# Prints a statement that calls a function for each event; the function's text says ORDER for the order.
publish_call() {
	if [ "$rows" = 1 ]; then
		echo "SELECT ${1//ORDER/\'order-\' || :id};"
	else
		echo "SELECT count(*) FROM (SELECT ${1//ORDER/\'order-\' || (:id + i)}
			FROM generate_series(1, $rows) AS i OFFSET 0) AS published;"
	fi
}

# Prints a statement that sends one payload, or an array of them, with the order in it. Arguments: the function for
# one, the one for many, their first arguments, the payload's type.
publish_sending() {
	local rest=", ${publish_payload#\{}" order="'{\"order\": \"order-' ||"

	if [ "$rows" = 1 ]; then
		echo "SELECT $1($3($order :id || '\"$rest')::$4);"
	else
		echo "SELECT count(*) FROM (SELECT $2($3 ARRAY(
			SELECT ($order (:id + i) || '\"$rest')::$4 FROM generate_series(1, $rows) AS i)) OFFSET 0) AS sent;"
	fi
}

# Prints a statement that appends events to one of Emmett's streams. Each client has streams of its own, as two that
# append to one at the same time would fail.
publish_stream() {
	local type

	echo "\set stream :id / $clients * $clients + :client_id"
	echo "SELECT emt_append_to_stream(ARRAY(SELECT gen_random_uuid()::text FROM generate_series(1, $rows))"
	for type in "'$publish_payload'::jsonb" "'{}'::jsonb" "text '1'" "text 'ItemAdded'" "text 'E'"; do
		echo ", array_fill($type, ARRAY[$rows])"
	done
	echo ", 'order-' || :stream, 'order', NULL, 'emt' || chr(58) || 'default');"
}
