# shellcheck shell=bash
#
# Suite growth: what an event costs in a large outbox, against a small one. Sourced by bench/run.
#
# Two databases, one with few events in its outbox, one with many. Each processes its whole outbox. Then, in
# turns, each gets the same new events, and processes them; first so, then while an unrelated transaction that
# has written something stays open all the time. The projection of new events only adds rows to its read table:
# updated rows leave dead versions, which nobody can remove while such a transaction is open, and which slow
# down every further update. That is so without the extension, too, and it is not what is measured here.

suite_growth() {
	local few many fresh turns i size_name holders=()
	declare -A whole whole_cpu new publishing=() status_took=()

	few=100000
	many=$(size 20000000 1000000)
	fresh=10000
	turns=$(size 5 3)
	for size_name in few many; do
		database=growth_$size_name fresh_database
		growth_sql "$size_name" <<-SQL
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
	database=growth_few workers off
	run_psql -c CHECKPOINT

	# The large one twice, the small one, which is warmed up first, around it.
	growth_whole few
	whole=() whole_cpu=()
	for size_name in few few few many few few few many few few few; do growth_whole "$size_name"; done

	for size_name in few many; do
		same_work "read table with $size_name" \
			"$(growth_sql "$size_name" <<<"SELECT bench.checksum('bench.by_engine')")" \
			"$(growth_sql "$size_name" <<-'SQL'
				SELECT bench.checksum_of('SELECT aggregate_id, count(*), sum((payload->>''price'')::numeric)
					FROM cqrs.outbox GROUP BY aggregate_id')
			SQL
			)"
		growth_sql "$size_name" >/dev/null <<-'SQL'
			SELECT cqrs.drop_projection('bench');
			SELECT cqrs.create_projection('log', 'bench.keep_log()', '{bench.log}', start_at => 'now',
			    batch_size => 1000);
		SQL
	done
	growth_turns free
	growth_hold_open
	growth_turns beside
	run_psql -Atc "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(86400)'" >/dev/null
	wait "${holders[@]}" || true

	for size_name in few many; do
		same_work "new events processed with $size_name" \
			"$(growth_sql "$size_name" <<<'SELECT count(*) FROM bench.log')" $((2 * (turns + 1) * fresh))
	done

	# shellcheck disable=SC2046,SC2086 # lists of numbers
	{
		figure "whole outbox: cost of an event at $many against $few" ratio "<= 1.2" \
			$(quotients "${whole[many]}" "$(median ${whole[few]})")
		figure "whole outbox: cost of an event at $many against $few, by processor time" ratio "" \
			$(quotients "${whole_cpu[many]}" "$(median ${whole_cpu[few]})")
		figure "new events: cost of one at $many against $few" ratio "<= 1.2" ${new[free]}
		figure "the same, an idle transaction being open in each" ratio "<= 1.2" ${new[beside]}
		figure "the same, but against the small one without such a transaction" ratio "<= 1.2" \
			"$(quotient "$(median ${new[beside_many]})" "$(median ${new[free_few]})")"
		figure "whole outbox of $few: an event" us "" ${whole[few]}
		figure "whole outbox of $many: an event" us "" ${whole[many]}
		figure "new event at $few" us "" ${new[free_few]}
		figure "new event at $many" us "" ${new[free_many]}
		figure "new event at $many, an idle transaction being open" us "" ${new[beside_many]}
		figure "publishing: cost of an event at $many against $few" ratio "<= 1.2" \
			"$(quotient "$(median ${publishing[many]})" "$(median ${publishing[few]})")"
		figure "publishing at $few: an event" us "" ${publishing[few]}
		figure "publishing at $many: an event" us "" ${publishing[many]}
		figure "looking at cqrs.projection_status: at $many against $few" ratio "<= 1.2" \
			"$(quotient "$(median ${status_took[many]})" "$(median ${status_took[few]})")"
		figure "looking at cqrs.projection_status at $few" ms "" ${status_took[few]}
		figure "looking at cqrs.projection_status at $many" ms "" ${status_took[many]}
	}
	run_psql -c 'DROP DATABASE growth_few WITH (FORCE)' -c 'DROP DATABASE growth_many WITH (FORCE)'
	run_psql -c 'ALTER SYSTEM RESET cqrs_views.enabled' -c 'SELECT pg_reload_conf()' >/dev/null
}

growth_sql() {
	local name=$1
	shift

	database=growth_$name sql "$@"
}

# Adds to the caller's arrays whole and whole_cpu how many microseconds an event takes when a database's whole outbox is
# processed.
growth_whole() {
	local took events=${!1}

	took=$(database=growth_$1 measured <<-'SQL'
		SELECT cqrs.drop_projection(name) FROM cqrs.projection;
		TRUNCATE bench.by_engine;
		SELECT cqrs.create_projection('bench', 'bench.keep()', '{bench.by_engine}');
		SET synchronous_commit = off;
		\timing on
		CALL cqrs.catch_up('bench');
	SQL
	)
	whole[$1]+=" $(quotient "${took% *}" "$events.0e-3")"
	whole_cpu[$1]+=" $(quotient "${took#* }" "$events.0e-3")"
}

# Opens a transaction in each database that writes something and then does nothing; their processes are the
# caller's holders.
growth_hold_open() {
	local name

	for name in few many; do
		run_psql -d "growth_$name" -c 'INSERT INTO bench.unrelated VALUES (1); SELECT pg_sleep(86400)' \
			>/dev/null 2>&1 &
		holders+=($!)
	done
	until [ "$(run_psql -Atc "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL
		AND query LIKE '%pg_sleep(86400)'")" = 2 ]; do sleep 0.1; done
}

# Has both databases publish and process new events in turns. Adds to the caller's arrays new, publishing and
# status_took. The first turn warms up.
growth_turns() {
	local i size_name numbers
	declare -A took

	for ((i = 0; i <= turns; i++)); do
		for size_name in few many; do
			read -ra numbers < <(growth_fresh "$size_name")
			took[$size_name]=${numbers[0]}
			[ "$i" -gt 0 ] || continue
			new[${1}_$size_name]+=" ${numbers[0]}"
			publishing[$size_name]+=" ${numbers[1]}"
			status_took[$size_name]+=" ${numbers[2]}"
		done
		[ "$i" -eq 0 ] || new[$1]+=" $(quotient "${took[many]}" "${took[few]}")"
	done
}

# Has a database publish new events in transactions of 100, look at the status, and process them in batches of 1,000.
# Prints how many microseconds an event took to be processed, how many to be published, and how many milliseconds the
# look took.
growth_fresh() {
	local published looked processed database=growth_$1

	published=$(measured <<-SQL
		SET synchronous_commit = off;
		\timing on
		CALL bench.publish($fresh, 100);
	SQL
	)
	looked=$(measured <<-'SQL'
		TABLE cqrs.projection_status \g /dev/null
		\timing on
		TABLE cqrs.projection_status \g /dev/null
	SQL
	)
	processed=$(measured <<-'SQL'
		SET synchronous_commit = off;
		\timing on
		CALL cqrs.catch_up('log');
	SQL
	)
	echo "$(quotient "${processed% *}" "$fresh.0e-3") $(quotient "${published% *}" "$fresh.0e-3") ${looked% *}"
}
