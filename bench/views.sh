# shellcheck shell=bash
#
# Suite views: read tables kept by a query, against the same by hand. Sourced by bench/run.
#
# By hand is the statement that one would write: INSERT .. SELECT .. GROUP BY .. ON CONFLICT DO UPDATE, over the
# same events, into a table with the same key. bench.shape has both.

suite_views() {
	repetitions=$(size 7 3)
	views_drain sums 1000 "" slices bare view worker backlog backlog_worker
	views_drain sums 10000 " (every row in every batch)" slices bare view worker backlog
	views_drain last 1000 " with a last value" slices view
	views_inline
	views_create
	views_flights
	workers on
}

# ---------------------------------------------------------------------------------------------------------
# A backlog into a read table that has rows
# ---------------------------------------------------------------------------------------------------------

# Each round publishes new events, and each way adds them to a read table of its own. Arguments: the shape, the
# number of orders, what to add to the figures' names, the ways.
views_drain() {
	local shape=$1 orders=$2 remark=$3 ways=("${@:4}") way events=100000 before

	fresh_database
	sql <"$bench/views.sql"
	workers off
	for way in "${ways[@]}"; do
		case $way in
			slices | bare) sql <<<"CALL bench.create_by_hand('$shape', 'bench.$way')" ;;
			backlog*) views_create_paused "$shape" "$way" NULL ;;
			*) views_create_paused "$shape" "$way" 10000 ;;
		esac
	done
	measure_in_turns views_drain "$repetitions" "${ways[@]}"

	views_drain_figure ">= 0.9" view slices "catch_up: speed against slices by hand"
	views_drain_figure ">= 0.9" worker slices "worker: speed against slices by hand"
	views_drain_figure ">= 0.625" backlog bare "default batches, catch_up: speed against one bare statement"
	views_drain_figure ">= 0.625" backlog_worker bare "default batches, worker: speed against one bare statement"
	for way in "${ways[@]}"; do
		# shellcheck disable=SC2086 # a list of numbers
		figure "$events events, ${views_meaning[$way]}$remark" ms "" ${taken[$way]}
	done
}

declare -A views_meaning=(
	[slices]="by hand in slices of 10,000"
	[bare]="by hand in one bare statement"
	[view]="view, batches of 10,000, catch_up"
	[worker]="view, batches of 10,000, worker"
	[backlog]="view, default batches, catch_up"
	[backlog_worker]="view, default batches, worker"
)

# Notes how fast a way was, if it was measured.
views_drain_figure() {
	[ -z "${taken[$2]:-}" ] || speed_figure "view$remark, $4" "$1" "$2" "$3"
}

# Creates a view in the schema bench that waits to be resumed. Arguments: the shape, the name, the batch size.
views_create_paused() {
	sql >/dev/null <<-SQL
		SET search_path = bench;
		SELECT cqrs.create_view('$2', query, batch_size => $3) FROM bench.shape WHERE name = '$1';
		SELECT cqrs.pause_projection('$2');
	SQL
}

views_drain_prepare() {
	before=$(sql <<<'SELECT coalesce(max(position), 0) FROM cqrs.outbox')
	sql <<-SQL
		CALL bench.publish($events, orders => $orders, status_every => $([ "$shape" = last ] && echo 7 || echo NULL));
		VACUUM (ANALYZE, FREEZE) cqrs.outbox;
		VACUUM (ANALYZE) $(printf 'bench.%s\n' "${ways[@]}" | paste -sd ,);
		CHECKPOINT;
	SQL
}

# Ends the run unless all ways' tables show what the query over all events does.
views_drain_check() {
	local expected

	expected=$(sql <<<"SELECT bench.checksum_by_query('$shape')")
	for way in "${ways[@]}"; do
		same_work "read table of $way" "$(sql <<<"SELECT bench.checksum('bench.$way', '$shape')")" "$expected"
	done
}

views_drain_slices() {
	views_by_hand slices 10000
}

views_drain_bare() {
	views_by_hand bare 1000000000
}

# Adds the new events to a table by hand, in slices of some size.
views_by_hand() {
	milliseconds <<-SQL
		SET synchronous_commit = off;
		\timing on
		CALL bench.keep_shape_by_hand('$shape', 'bench.$1', $2, after => $before);
	SQL
}

views_drain_view() {
	views_by_catch_up view
}

views_drain_backlog() {
	views_by_catch_up backlog
}

views_by_catch_up() {
	milliseconds <<-SQL
		SELECT cqrs.resume_projection('$1') \g /dev/null
		SET synchronous_commit = off;
		\timing on
		CALL cqrs.catch_up('$1');
		\timing off
		SELECT cqrs.pause_projection('$1') \g /dev/null
	SQL
}

views_drain_worker() {
	views_by_worker worker
}

views_drain_backlog_worker() {
	views_by_worker backlog_worker
}

views_by_worker() {
	workers on
	resume_for_worker "$1" "bench.$1"
	sql <<<"SELECT cqrs.pause_projection('$1')" >/dev/null
	workers off
}

# ---------------------------------------------------------------------------------------------------------
# In the publisher's transaction
# ---------------------------------------------------------------------------------------------------------

# Single rows, into three tables of the same columns and indexes: the outbox with an inline view, a table with a
# statement trigger that does the same upsert, and one with nothing to do.
views_inline() {
	local seconds commit clients remark

	# shellcheck disable=SC2034 # publish_tps reads it
	seconds=$(size 10 2)
	fresh_database
	sql <"$bench/views.sql"
	workers on
	sql >/dev/null <<-'SQL'
		DROP TRIGGER keep ON bench.plain_outbox;
		CREATE TABLE bench.bare_outbox (LIKE bench.plain_outbox INCLUDING ALL);
		CREATE TRIGGER keep AFTER INSERT ON bench.plain_outbox REFERENCING NEW TABLE AS inserted
		    FOR EACH STATEMENT EXECUTE FUNCTION bench.keep_by_statement_trigger();
		SET search_path = bench;
		SELECT cqrs.create_view('view', query, mode => 'inline') FROM bench.shape WHERE name = 'sums';
	SQL

	for commit in on off; do
		for clients in 1 8; do
			measure_in_turns views_inline "$repetitions" view trigger bare
			remark="inline view, $clients client$([ "$clients" = 1 ] || echo s), synchronous_commit=$commit"
			tps_figure "$remark: tps against a statement trigger" ">= 1" view trigger
			tps_figure "$remark: tps against a plain insert" "" view bare
			# shellcheck disable=SC2086 # a list of numbers
			figure "$remark: events a second" tps "" ${taken[view]}
		done
	done
}

views_inline_prepare() {
	sql <<<'VACUUM (ANALYZE) bench.view, bench.by_hand, cqrs.outbox, bench.plain_outbox, bench.bare_outbox'
}

# Compares with the query over each table, as the clients drew their orders at random.
views_inline_check() {
	same_work "read table of the inline view" "$(sql <<<"SELECT bench.checksum('bench.view', 'sums')")" \
		"$(sql <<<"SELECT bench.checksum_by_query('sums')")"
	same_work "table of the statement trigger" "$(sql <<<"SELECT bench.checksum('bench.by_hand', 'sums')")" \
		"$(sql <<<"SELECT bench.checksum_by_query('sums', 'bench.plain_outbox')")"
}

views_inline_view() {
	publish_tps cqrs.outbox "$commit" "$clients"
}

views_inline_trigger() {
	publish_tps bench.plain_outbox "$commit" "$clients"
}

views_inline_bare() {
	publish_tps bench.bare_outbox "$commit" "$clients"
}

# ---------------------------------------------------------------------------------------------------------
# A new view over events that are there
# ---------------------------------------------------------------------------------------------------------

views_create() {
	local events

	events=$(size 1000000 200000)
	fresh_database
	sql <"$bench/views.sql"
	workers off
	sql <<<"CALL bench.publish($events, orders => 10000); VACUUM (ANALYZE, FREEZE) cqrs.outbox; CHECKPOINT;"

	shape=sums measure_in_turns views_create "$(size 5 3)" view bare
	speed_figure "creating a view over $events events: speed against one bare statement" ">= 0.77" view bare
	views_create_figures "$events events"
}

# Notes the times of both.
views_create_figures() {
	# shellcheck disable=SC2086 # lists of numbers
	{
		figure "$1, creating a view" ms "" ${taken[view]}
		figure "$1, creating a table with the key and filling it by a bare statement" ms "" ${taken[bare]}
	}
}

views_create_prepare() {
	sql >/dev/null <<-'SQL'
		SET client_min_messages = warning;
		SELECT cqrs.drop_projection(name, drop_read_tables => true) FROM cqrs.projection;
		DROP TABLE IF EXISTS bench.bare;
		CHECKPOINT;
	SQL
}

views_create_check() {
	local expected

	expected=$(sql <<<"SELECT bench.checksum_by_query('$shape')")
	same_work "the new view's table" "$(sql <<<"SELECT bench.checksum('bench.view', '$shape')")" "$expected"
	same_work "the table filled by hand" "$(sql <<<"SELECT bench.checksum('bench.bare', '$shape')")" "$expected"
}

views_create_view() {
	milliseconds <<-SQL
		SET synchronous_commit = off;
		SET search_path = bench;
		\timing on
		SELECT cqrs.create_view('view', query, batch_size => 10000) FROM bench.shape WHERE name = '$shape';
	SQL
}

# Without ON CONFLICT there is nothing to go wrong either, as the table is empty; but it is the same statement.
views_create_bare() {
	milliseconds <<-SQL
		SET synchronous_commit = off;
		\timing on
		CALL bench.create_by_hand('$shape', 'bench.bare');
		CALL bench.keep_shape_by_hand('$shape', 'bench.bare', 1000000000);
	SQL
}

# ---------------------------------------------------------------------------------------------------------
# Real events
# ---------------------------------------------------------------------------------------------------------

# Flights of a year: creating a view with a row for each flight, and computing it again batch by batch. Carriers'
# months are a plain view on top of it.
views_flights() {
	local data=${CQRS_DATA:-$checkout/../shared/data}/pnw_flights14 events

	if [ ! -r "$data/events.ndjson.gz" ]; then
		say "Skipping pnw_flights14: there is no $data"
		return
	fi
	fresh_database
	sql <"$bench/views.sql"
	workers off
	as_server_user "$sources/scripts/load-events" -q -d "$suite" --transaction-size 10000 "$data/events.ndjson.gz"
	sql <<<'VACUUM (ANALYZE, FREEZE) cqrs.outbox; CHECKPOINT;'
	events=$(sql <<<'SELECT count(*) FROM cqrs.outbox')

	shape=flight measure_in_turns views_create "$(size 5 2)" view bare
	views_flights_answer
	speed_figure "pnw_flights14, creating a view: speed against one bare statement" "" view bare
	views_create_figures "pnw_flights14, $events events"

	shape=flight measure_in_turns views_rebuild "$(size 3 2)" view slices
	speed_figure "pnw_flights14, rebuild by batches of 10,000: speed against slices by hand" "" view slices
	# shellcheck disable=SC2086 # lists of numbers
	{
		figure "pnw_flights14, $events events, rebuild by batches of 10,000" ms "" ${taken[view]}
		figure "pnw_flights14, $events events, by hand in slices of 10,000" ms "" ${taken[slices]}
	}
}

# Ends the run unless the view gives the answer that comes with the data set.
views_flights_answer() {
	same_work "answer_carrier_month.csv of pnw_flights14" "$(
		sql <<-'SQL' | md5sum
			SET search_path = bench;
			SELECT cqrs.create_view('carrier', $$
			    SELECT aggregate_id AS carrier, cqrs.last(payload->>'name') AS name
			    FROM events WHERE event_type = 'AirlineRegistered' GROUP BY aggregate_id
			$$) \g /dev/null
			CREATE VIEW carrier_month AS
			SELECT carrier, name AS airline_name, month AS flight_month, count(*) AS flights,
			       sum(cancelled) AS cancelled, sum(departed) AS departed, sum(arrived) AS arrived,
			       count(*) FILTER (WHERE dep_delay > 15) AS departed_over_15min_late,
			       sum(dep_delay) AS dep_delay_sum, sum(arr_delay) AS arr_delay_sum
			FROM bench.view LEFT JOIN carrier USING (carrier)
			WHERE month IS NOT NULL
			GROUP BY carrier, name, month;
			COPY (SELECT * FROM carrier_month ORDER BY carrier COLLATE "C", flight_month) TO STDOUT (FORMAT csv, HEADER);
			DROP VIEW carrier_month;
		SQL
	)" "$(zcat "$data/answer_carrier_month.csv.gz" | md5sum)"
}

views_rebuild_prepare() {
	sql <<-'SQL'
		DROP TABLE IF EXISTS bench.bare;
		CALL bench.create_by_hand('flight', 'bench.bare');
		CHECKPOINT;
	SQL
}

views_rebuild_check() {
	views_create_check
}

views_rebuild_view() {
	milliseconds <<-'SQL'
		SET synchronous_commit = off;
		\timing on
		CALL cqrs.rebuild_projection('view', online => false);
	SQL
}

views_rebuild_slices() {
	milliseconds <<-'SQL'
		SET synchronous_commit = off;
		\timing on
		CALL bench.keep_shape_by_hand('flight', 'bench.bare', 10000);
	SQL
}
