# shellcheck shell=bash
#
# Suite cost: what an event costs by itself, whatever it is compared to: processor time, WAL and disk, published and
# processed by each kind of handler. Sourced by bench/run.
#
# Nothing else writes WAL meanwhile: autovacuum is off, and there is no checkpoint, so no page is written whole for the
# first time after one.

# Bytes of WAL of an event, a list for each way, and the processor's ms for VACUUM; the first is of the round that warms up.
declare -A cost_wal
declare -a cost_vacuum

suite_cost() {
	local batch kinds=(view batch reducer event)

	workers off
	run_psql -c 'ALTER SYSTEM SET autovacuum = off' -c 'SELECT pg_reload_conf()' >/dev/null
	events=$(size 100000 20000) orders=1000 repetitions=$(size 5 3)
	cost_publishing
	for batch in 10 100 1000 10000; do
		cost_processing
	done
	cost_arriving
	workers on
}

# What is published, in transactions of so many events, and vacuumed; and what it takes of the disk.
cost_publishing() {
	local way what bytes

	part "publishing"
	cost_wal=()
	cost_vacuum=()
	fresh_database
	measure_in_turns cost_publishing "$repetitions" 1 100 10000
	for way in 1 100 10000; do
		cost_figures "$way" "transactions of $way"
	done
	used["vacuum"]=${cost_vacuum[*]:1}
	cost_figures vacuum "VACUUM (FREEZE) afterwards"
	while IFS='|' read -r what bytes; do
		figure "disk: $what" bytes/event "" "$bytes"
	done < <(sql <<-'SQL'
		SELECT what, round(bytes / (SELECT count(*) FROM cqrs.outbox)::numeric, 1)
		FROM (VALUES ('the payload as text', (SELECT sum(length(payload::text)) FROM cqrs.outbox)),
		             ('rows', pg_table_size('cqrs.outbox')),
		             ('index on position', pg_relation_size('cqrs.outbox_pkey')),
		             ('index on xid and position', pg_relation_size('cqrs.outbox_xid_position')),
		             ('together', pg_total_relation_size('cqrs.outbox'))) AS t (what, bytes)
	SQL
	)
}

cost_publishing_prepare() {
	:
}

cost_publishing_measure() {
	local publish="CALL bench.publish($events, $1, $orders)"

	# single rows by a plan that is made once, as a client's prepared statement is
	[ "$1" != 1 ] || publish="DO 'BEGIN
		FOR i IN 1 .. $events LOOP
			INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
			VALUES (''order'', ''order-'' || i * 7919 % $orders, ''ItemAdded'', bench.payload(i));
			COMMIT;
		END LOOP; END'"
	cost_measured "$1" "$events" <<-SQL
		SET synchronous_commit = off;
		\timing on
		$publish;
	SQL
}

# Vacuums what the round has published.
cost_publishing_check() {
	local took

	cost_measured vacuum $((3 * events)) <<-'SQL' >"$workspace/numbers"
		\timing on
		VACUUM (FREEZE) cqrs.outbox;
	SQL
	read -ra took <"$workspace/numbers"
	cost_vacuum+=("${took[1]}")
}

# What each kind of handler needs to process them in batches of a size.
cost_processing() {
	local kind

	part "processing, batches of $batch"
	cost_wal=()
	fresh_database shapes.sql
	for kind in "${kinds[@]}"; do
		sql <<<"CALL bench.create_way('sums', '$kind', '$kind', $batch)"
	done
	sql >/dev/null <<-SQL
		SET search_path = bench;
		SELECT cqrs.create_view('copies', 'SELECT position, event_id, aggregate_type, aggregate_id, aggregate_version,
			event_type, payload, metadata, occurred_at FROM events', batch_size => $batch);
		SELECT cqrs.pause_projection('copies');
	SQL
	measure_in_turns cost_processing "$repetitions" "${kinds[@]}" copies
	cost_figures view "view"
	cost_figures batch "batch handler"
	cost_figures reducer "reducer"
	cost_figures event "event handler"
	cost_figures copies "view that appends whole events"
}

cost_processing_prepare() {
	sql <<-SQL
		CALL bench.publish($events, orders => $orders);
		VACUUM (ANALYZE, FREEZE) cqrs.outbox;
		VACUUM (ANALYZE) $(printf 'bench.%s, ' "${kinds[@]}" | sed 's/, $//');
	SQL
}

# Ends the run unless all tables show what the query over all events does.
cost_processing_check() {
	local kind expected

	expected=$(sql <<<"SELECT bench.checksum_by_query('sums')")
	for kind in "${kinds[@]}"; do
		same_work "read table of $kind" "$(sql <<<"SELECT bench.checksum('$kind', 'sums')")" "$expected"
	done
	same_work "events copied" "$(sql <<<'SELECT count(*) FROM bench.copies')" "$(sql <<<'SELECT count(*) FROM cqrs.outbox')"
}

cost_processing_measure() {
	sql <<<"SELECT cqrs.resume_projection('$1')" >/dev/null
	cost_measured "$1" "$events" <<-SQL
		SET synchronous_commit = off;
		\timing on
		CALL cqrs.catch_up('$1');
	SQL
	sql <<<"SELECT cqrs.pause_projection('$1')" >/dev/null
}

# What arrives from another service, row by row in transactions of 100, as a subscription brings it: into a table that
# is attached, and into one that is not.
cost_arriving() {
	local way

	part "arriving"
	cost_wal=()
	fresh_database
	for way in attached plain; do
		sql <<-SQL
			CREATE TABLE bench.$way (position bigint NOT NULL, event_id uuid PRIMARY KEY, aggregate_type text NOT NULL,
				aggregate_id text NOT NULL, aggregate_version bigint, event_type text NOT NULL, payload jsonb NOT NULL,
				metadata jsonb NOT NULL, occurred_at timestamptz NOT NULL);
		SQL
	done
	sql <<<"SELECT cqrs.attach_outbox('bench.attached', 'service')" >/dev/null
	measure_in_turns cost_arriving "$repetitions" attached plain
	cost_figures attached "a row, attached, and its event"
	cost_figures plain "a row by itself"
}

cost_arriving_prepare() {
	sql <<<"VACUUM (ANALYZE)"
}

cost_arriving_check() {
	same_work "events of rows" "$(sql <<<'SELECT count(*) FROM cqrs.outbox')" "$(sql <<<'SELECT count(*) FROM bench.plain')"
}

cost_arriving_measure() {
	cost_measured "$1" "$events" <<-SQL
		SET synchronous_commit = off;
		SET session_replication_role = replica;
		\timing on
		DO 'BEGIN
			FOR i IN 1 .. $events LOOP
				INSERT INTO bench.$1 VALUES (i, gen_random_uuid(), ''order'', ''order-'' || i * 7919 % $orders, NULL, ''ItemAdded'',
					bench.payload(i), ''{}'', clock_timestamp());
				IF i % 100 = 0 THEN
					COMMIT;
				END IF;
			END LOOP; END';
	SQL
}

# Runs SQL from standard input like measured, and notes what it has written to WAL. Prints what an event took of time and
# processor. Arguments: the way, the number of events.
cost_measured() {
	local from took

	from=$(sql <<<'SELECT pg_current_wal_insert_lsn()')
	took=$(measured)
	cost_wal[$1]+=" $(sql <<<"SELECT round((pg_current_wal_insert_lsn() - '$from') / $2.0, 1)")"
	awk -v events="$2" '{ print $1 / events, $2 / events }' <<<"$took"
}

# Notes how many events a second one core manages, and what each writes to WAL.
cost_figures() {
	local wal

	read -ra wal <<<"${cost_wal[$1]}"
	# shellcheck disable=SC2046 # a list of numbers
	figure "$2: by a core" events/s "" $(quotients 1e3 "${used[$1]}")
	figure "$2: WAL" bytes/event "" "${wal[@]:1}"
}
