# shellcheck shell=bash
#
# Suite drain: a backlog into one read table. Sourced by bench/run.
#
# The floor for a batch handler is its statement, run by hand over slices of the batch's size, a commit each.
# The floor for an event handler is the same upsert in a row trigger, which is an insert's part; what that
# insert takes without the trigger is measured beside it, and the difference is what the trigger alone takes.

suite_drain() {
	events=100000
	repetitions=$(size 7 3)

	drain_orders 1000 "" slices bare batch batch_worker row_trigger no_trigger event event_worker

	# Here each slice touches every row of the read table, and the upsert is nearly all there is to do.
	drain_orders 10000 " (every row in every batch)" slices bare batch batch_worker
	workers on
}

# Measures the named ways with events of so many orders; the second argument is added to the figures' names.
drain_orders() {
	local orders=$1 remark=$2 ways=("${@:3}") i way expected=
	declare -A took ratios

	fresh_database
	workers off
	sql <<<"CALL bench.publish($events, orders => $orders); VACUUM (ANALYZE, FREEZE) cqrs.outbox; CHECKPOINT;"

	# The first round only warms up.
	for ((i = 0; i <= repetitions; i++)); do
		for way in "${ways[@]}"; do
			took[$way]=$("drain_$way")
			check_drained "$way"
		done
		[ "$i" -gt 0 ] || continue
		for way in batch batch_worker; do
			ratios[$way]+=" $(quotient "${took[slices]}" "${took[$way]}")"
		done
		ratios[bare]+=" $(quotient "${took[bare]}" "${took[batch]}")"
		if [ -n "${took[row_trigger]:-}" ]; then
			took[upserts]=$(awk "BEGIN { print ${took[row_trigger]} - ${took[no_trigger]} }")
			for way in event event_worker; do
				ratios[$way]+=" $(quotient "${took[row_trigger]}" "${took[$way]}")"
			done
			ratios[upserts]+=" $(quotient "${took[upserts]}" "${took[event]}")"
		fi
		for way in "${!took[@]}"; do
			ratios[ms_$way]+=" ${took[$way]}"
		done
	done

	# shellcheck disable=SC2086 # lists of numbers
	{
		figure "batch handler, catch_up: speed against slices by hand$remark" ratio ">= 0.85" ${ratios[batch]}
		figure "batch handler, worker: speed against slices by hand$remark" ratio ">= 0.85" ${ratios[batch_worker]}
		figure "batch handler, catch_up: speed against one bare statement$remark" ratio "" ${ratios[bare]}
		if [ -n "${took[upserts]:-}" ]; then
			figure "event handler, catch_up: speed against a row trigger" ratio ">= 1" ${ratios[event]}
			figure "event handler, worker: speed against a row trigger" ratio ">= 1" ${ratios[event_worker]}
			figure "event handler, catch_up: speed against the row trigger's part alone" ratio "" ${ratios[upserts]}
		fi
		for way in "${ways[@]}" upserts; do
			[ -z "${took[$way]:-}" ] || figure "$events events, ${meaning[$way]}$remark" ms "" ${ratios[ms_$way]}
		done
	}
}

declare -A meaning=(
	[slices]="by hand in slices of 10,000"
	[bare]="by hand in one bare statement"
	[batch]="batch handler, catch_up"
	[batch_worker]="batch handler, worker"
	[row_trigger]="row trigger, and filling its table"
	[no_trigger]="filling that table alone"
	[upserts]="row trigger alone, by difference"
	[event]="event handler, catch_up"
	[event_worker]="event handler, worker"
)

# Ends the run unless a way has made what the first one made.
check_drained() {
	local read_table=bench.by_hand found

	case $1 in
		no_trigger) return ;;
		batch* | event*) read_table=bench.by_engine ;;
	esac
	found=$(sql <<<"SELECT bench.checksum('$read_table')")
	: "${expected:=$found}"
	same_work "read table of $1" "$found" "$expected"
}

drain_slices() {
	milliseconds <<-'SQL'
		TRUNCATE bench.by_hand;
		SET synchronous_commit = off;
		\timing on
		CALL bench.keep_by_hand(10000);
	SQL
}

drain_bare() {
	milliseconds <<-'SQL'
		TRUNCATE bench.by_hand;
		SET synchronous_commit = off;
		\timing on
		CALL bench.keep_by_hand(1000000000);
	SQL
}

drain_batch() {
	drain_by_catch_up 'bench.keep()'
}

drain_event() {
	drain_by_catch_up 'bench.keep(cqrs.event)'
}

drain_batch_worker() {
	drain_by_worker 'bench.keep()'
}

drain_event_worker() {
	drain_by_worker 'bench.keep(cqrs.event)'
}

drain_row_trigger() {
	milliseconds <<-'SQL'
		TRUNCATE bench.by_hand, bench.plain_outbox;
		ALTER TABLE bench.plain_outbox ENABLE TRIGGER keep;
		SET synchronous_commit = off;
		\timing on
		CALL bench.copy_by_hand(10000);
	SQL
}

drain_no_trigger() {
	milliseconds <<-'SQL'
		TRUNCATE bench.plain_outbox;
		ALTER TABLE bench.plain_outbox DISABLE TRIGGER keep;
		SET synchronous_commit = off;
		\timing on
		CALL bench.copy_by_hand(10000);
	SQL
}

# Drains the outbox in a session, without workers.
drain_by_catch_up() {
	workers off
	milliseconds -v handler="$1" <<-'SQL'
		SELECT cqrs.drop_projection(name) FROM cqrs.projection;
		TRUNCATE bench.by_engine;
		SELECT cqrs.create_projection('bench', :'handler', '{bench.by_engine}');
		SET synchronous_commit = off;
		\timing on
		CALL cqrs.catch_up('bench');
	SQL
}

# Drains the outbox by a worker that sleeps when told to begin.
drain_by_worker() {
	sql -v handler="$1" <<-'SQL' >/dev/null
		SELECT cqrs.drop_projection(name) FROM cqrs.projection;
		TRUNCATE bench.by_engine;
		BEGIN;
		SELECT cqrs.create_projection('bench', :'handler', '{bench.by_engine}');
		SELECT cqrs.pause_projection('bench');
		COMMIT;
	SQL
	workers on
	resume_for_worker bench bench.by_engine
}
