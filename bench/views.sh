# shellcheck shell=bash
#
# Suite views: read tables kept by a query or a reducer, against the same by hand. Sourced by bench/run.
#
# By hand is the statement that one would write: INSERT .. SELECT .. GROUP BY .. ON CONFLICT DO UPDATE, over the
# same events, into a table with the same key. shapes.sql has both.

suite_views() {
	local repetitions

	repetitions=$(size 5 3)
	drain last 1000 10000 slices_10000 view_10000
	part "$part, with a last value"
	drain_figures

	views_create
	views_flights
	workers on
}

# ---------------------------------------------------------------------------------------------------------
# A new view over events that are there
# ---------------------------------------------------------------------------------------------------------

views_create() {
	events=$(size 1000000 200000)
	part "creating a view over $events events of 10,000 orders"
	fresh_database shapes.sql
	workers off
	sql <<<"CALL bench.publish($events, orders => 10000); VACUUM (ANALYZE, FREEZE) cqrs.outbox; CHECKPOINT;"

	shape=sums
	measure_in_turns views_create "$(size 4 2)" view bare
	speed_figure "view, against a table with the key filled by one statement" ">= 0.77" view bare
	rate_figures "$events" bare "by hand" view "view"
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
	same_work "the new view's table" "$(sql <<<"SELECT bench.checksum('view', '$shape')")" "$expected"
	same_work "the table filled by hand" "$(sql <<<"SELECT bench.checksum('bare', '$shape')")" "$expected"
}

# By hand it is the statement of the slices once more: with its ON CONFLICT, which an empty table has no use for.
views_create_measure() {
	if [ "$1" = view ]; then
		measured <<-SQL
			SET synchronous_commit = off;
			SET search_path = bench;
			\timing on
			SELECT cqrs.create_view('view', query, batch_size => 10000) FROM bench.shape WHERE name = '$shape';
		SQL
	else
		measured <<-SQL
			SET synchronous_commit = off;
			\timing on
			CALL bench.create_way('$shape', 'hand', 'bare');
			CALL bench.keep_bare(1000000000);
		SQL
	fi
}

# ---------------------------------------------------------------------------------------------------------
# Real events
# ---------------------------------------------------------------------------------------------------------

# Flights of a year: creating a view with a row for each flight, and computing it again batch by batch. Carriers'
# months are a plain view on top of it.
views_flights() {
	local data=${CQRS_DATA:-$checkout/../shared/data}/pnw_flights14

	if [ ! -r "$data/events.ndjson.gz" ]; then
		say "Skipping pnw_flights14: there is no $data"
		return
	fi
	part "pnw_flights14: 505,295 events, a row for each of 162,049 flights"
	fresh_database shapes.sql
	workers off
	as_server_user "$sources/scripts/load-events" -q -d "$suite" --transaction-size 10000 "$data/events.ndjson.gz"
	sql <<<'VACUUM (ANALYZE, FREEZE) cqrs.outbox; CHECKPOINT;'
	events=$(sql <<<'SELECT count(*) FROM cqrs.outbox')

	shape=flight
	measure_in_turns views_create "$(size 3 2)" view bare
	views_flights_answer
	speed_figure "creation, against one bare statement" "" view bare
	rate_figures "$events" bare "by one bare statement" view "creation"

	measure_in_turns views_rebuild "$(size 3 2)" view slices
	speed_figure "rebuild by batches of 10,000, against slices by hand" "" view slices
	rate_figures "$events" slices "by hand in slices of 10,000" view "rebuild by batches of 10,000"
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
		CALL bench.create_way('flight', 'hand', 'bare');
		CHECKPOINT;
	SQL
}

views_rebuild_check() {
	views_create_check
}

views_rebuild_measure() {
	measured <<-SQL
		SET synchronous_commit = off;
		\timing on
		$([ "$1" = view ] && echo "CALL cqrs.rebuild_projection('view', online => false);" ||
			echo "CALL bench.keep_bare(10000);")
	SQL
}
