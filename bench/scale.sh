# shellcheck shell=bash
#
# Suite scale: what an event costs in a large outbox, against a small one. Sourced by bench/run.
#
# Two databases, one with few events in its outbox, one with many. Each processes its whole outbox. Then, in
# turns, each gets the same new events, and processes them; first so, then while an unrelated transaction that
# has written something stays open all the time. The projection of new events only adds rows to its read table:
# updated rows leave dead versions, which nobody can remove while such a transaction is open, and which slow
# down every further update. That is so without the extension, too, and it is not what is measured here.

suite_scale() {
	local few many fresh turns i size_name holders=()
	declare -A whole new

	few=100000
	many=$(size 10000000 1000000)
	fresh=10000
	turns=$(size 7 5)
	for size_name in few many; do
		database=scale_$size_name fresh_database
		scale_sql "$size_name" <<-SQL
			CREATE TABLE bench.unrelated (i integer);
			CREATE TABLE bench.log (position bigint PRIMARY KEY, order_id text, price numeric);
			CREATE FUNCTION bench.keep_log() RETURNS trigger LANGUAGE plpgsql AS \$\$
			BEGIN
				INSERT INTO bench.log SELECT position, aggregate_id, (payload->>'price')::numeric FROM events;
				RETURN NULL;
			END \$\$;
			CALL bench.publish(${!size_name});
			VACUUM (ANALYZE, FREEZE) cqrs.outbox;
		SQL
	done
	database=scale_few workers off
	run_psql -c CHECKPOINT

	# The large one once, the small one around it.
	whole[few]=$(scale_whole few "$few")
	for i in 1 2 3; do whole[few]+=" $(scale_whole few "$few")"; done
	whole[many]=$(scale_whole many "$many")
	for i in 1 2 3; do whole[few]+=" $(scale_whole few "$few")"; done

	for size_name in few many; do
		same_work "events processed with $size_name" \
			"$(scale_sql "$size_name" <<<'SELECT sum(items) FROM bench.by_engine')" "${!size_name}"
		scale_sql "$size_name" >/dev/null <<-'SQL'
			SELECT cqrs.drop_projection('bench');
			SELECT cqrs.create_projection('log', 'bench.keep_log()', '{bench.log}', start_at => 'now',
			    batch_size => 1000);
		SQL
	done
	scale_turns free
	scale_hold_open
	scale_turns beside
	run_psql -Atc "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(86400)'" >/dev/null
	wait "${holders[@]}" || true

	for size_name in few many; do
		same_work "new events processed with $size_name" \
			"$(scale_sql "$size_name" <<<'SELECT count(*) FROM bench.log')" $((2 * (turns + 1) * fresh))
	done

	# shellcheck disable=SC2086 # lists of numbers
	{
		figure "whole outbox: cost of an event at $many against $few" ratio "<= 1.3" \
			"$(quotient "${whole[many]}" "$(median ${whole[few]})")"
		figure "new events: cost of one at $many against $few" ratio "<= 1.3" ${new[free]}
		figure "the same, an idle transaction being open in each" ratio "<= 1.3" ${new[beside]}
		figure "the same, but against the small one without such a transaction" ratio "<= 1.3" \
			"$(quotient "$(median ${new[beside_many]})" "$(median ${new[free_few]})")"
		figure "whole outbox of $few: an event" us "" ${whole[few]}
		figure "whole outbox of $many: an event" us "" ${whole[many]}
		figure "new event at $few" us "" ${new[free_few]}
		figure "new event at $many" us "" ${new[free_many]}
		figure "new event at $many, an idle transaction being open" us "" ${new[beside_many]}
	}
	run_psql -c 'DROP DATABASE scale_few WITH (FORCE)' -c 'DROP DATABASE scale_many WITH (FORCE)'
	run_psql -c 'ALTER SYSTEM RESET cqrs_views.enabled' -c 'SELECT pg_reload_conf()' >/dev/null
}

scale_sql() {
	local name=$1
	shift

	database=scale_$name sql "$@"
}

# Prints how many microseconds an event takes when a database's whole outbox is processed.
scale_whole() {
	local took

	took=$(database=scale_$1 measured <<-'SQL'
		SELECT cqrs.drop_projection(name) FROM cqrs.projection;
		TRUNCATE bench.by_engine;
		SELECT cqrs.create_projection('bench', 'bench.keep()', '{bench.by_engine}');
		SET synchronous_commit = off;
		\timing on
		CALL cqrs.catch_up('bench');
	SQL
	)
	quotient "${took% *}" "$2e-3"
}

# Opens a transaction in each database that writes something and then does nothing; their processes are the
# caller's holders.
scale_hold_open() {
	local name

	for name in few many; do
		run_psql -d "scale_$name" -c 'INSERT INTO bench.unrelated VALUES (1); SELECT pg_sleep(86400)' \
			>/dev/null 2>&1 &
		holders+=($!)
	done
	until [ "$(run_psql -Atc "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL
		AND query LIKE '%pg_sleep(86400)'")" = 2 ]; do sleep 0.1; done
}

# Has both databases process new events in turns. Adds to the caller's array new. The first turn warms up.
scale_turns() {
	local i took_few took_many

	for ((i = 0; i <= turns; i++)); do
		took_few=$(scale_fresh few)
		took_many=$(scale_fresh many)
		[ "$i" -gt 0 ] || continue
		new[$1]+=" $(quotient "$took_many" "$took_few")"
		new[${1}_few]+=" $took_few"
		new[${1}_many]+=" $took_many"
	done
}

# Prints how many microseconds a new event takes: published in transactions of 100, processed in batches of
# 1,000.
scale_fresh() {
	local took

	took=$(database=scale_$1 measured <<-SQL
				SET synchronous_commit = off;
		CALL bench.publish($fresh, 100);
		\timing on
		CALL cqrs.catch_up('log');
	SQL
	)
	quotient "${took% *}" "$fresh.0e-3"
}
