# shellcheck shell=bash
#
# Suite ten: ten projections in a database, against one, and against ten times the work by hand. Sourced by bench/run.

suite_ten() {
	local i

	shape=sums orders=1000 events=100000 batch=10000 tables=(bench.one)
	part "100,000 events of 1,000 orders, batches of 10,000"
	sql <"$bench/shapes.sql"
	workers off
	sql <<<"CALL bench.create_way('sums', 'view', 'one', $batch)"
	for i in 0 1 2 3 4 5 6 7 8 9; do
		sql <<<"CALL bench.create_way('sums', 'view', 'ten_$i', $batch)"
		sql <<<"CALL bench.create_way('sums', 'hand', 'hand_$i')"
		tables+=("bench.ten_$i" "bench.hand_$i")
	done
	ways=(one ten hand)
	measure_in_turns ten "$(size 5 2)" "${ways[@]}"
	speed_figure "ten views, against ten times slices by hand" "" ten hand
	cost_figure "processor time of ten views, against that of one" "" ten one
	rate_figures "$events" one "one view" ten "ten views" hand "ten tables by hand in slices of 10,000"

	# Here a batch is an event or a few, and what a projection costs beside its events counts.
	part "100 events a second, by workers"
	rows=1 clients=1 commit=on rate=100 seconds=$(size 5 3) ways=(none one ten)
	measure_in_turns ten_steady "$(size 5 3)" "${ways[@]}"
	ten_steady_compare
	rate=
	cost_figure "processor time of ten views, against that of one" "" ten one
	# shellcheck disable=SC2046 # lists of numbers
	{
		figure "no view: processor time of an event" us "" $(quotients "${used[none]}" 1.0e-3)
		figure "one view: processor time of an event" us "" $(quotients "${used[one]}" 1.0e-3)
		figure "ten views: processor time of an event" us "" $(quotients "${used[ten]}" 1.0e-3)
	}
	workers on
}

ten_prepare() {
	drain_prepare
}

ten_check() {
	drain_check
}

# Prints the projections that a way has.
ten_projections() {
	case $1 in
		one) echo one ;;
		ten) echo ten_{0..9} ;;
	esac
}

# Resumes or pauses a way's projections.
ten_have() {
	local name

	for name in $(ten_projections "$2"); do
		echo "SELECT cqrs.$1_projection('$name') \g /dev/null"
	done
}

ten_measure() {
	measured <<-SQL
		$(ten_have resume "$1")
		SET synchronous_commit = off;
		\timing on
		$(if [ "$1" = hand ]; then
			printf "CALL bench.keep_hand_%s($batch, after => $before);\n" {0..9}
		else
			echo "CALL cqrs.catch_up();"
		fi)
		\timing off
		$(ten_have pause "$1")
	SQL
}

ten_steady_prepare() {
	:
}

ten_steady_check() {
	:
}

# Ends the run unless all views, once they have everything, show what the query over all events does.
ten_steady_compare() {
	local name expected

	expected=$(sql <<<"SELECT bench.checksum_by_query('sums')")
	{
		ten_have resume one
		ten_have resume ten
		echo 'CALL cqrs.catch_up();'
	} | sql
	for name in $(ten_projections one) $(ten_projections ten); do
		same_work "read table of $name" "$(sql <<<"SELECT bench.checksum('$name', 'sums')")" "$expected"
	done
}

ten_steady_measure() {
	steady=$1
	workers on
	ten_have resume "$1" | sql
	watch_open
	ten_steady_wait
	watch_close
	publish_by_pgbench cqrs.outbox ten_steady_wait
	ten_have pause "$1" | sql
	workers off
}

# Waits until the projections of the way $steady have everything.
ten_steady_wait() {
	local name

	for name in $(ten_projections "$steady"); do
		watch "SELECT cqrs.wait_for('$name', '1 minute')"
		same_work "waiting for $name" "$seen" t
	done
}
