# shellcheck shell=bash
#
# Suite rebuild: a read table anew from all events, against the same by hand. Sourced by bench/run.

suite_rebuild() {
	events=$(size 1000000 200000) shape=sums
	part "$events events of 10,000 orders"
	sql <"$bench/shapes.sql"
	workers off
	sql <<-SQL
		CALL bench.publish($events, orders => 10000);
		CALL bench.create_way('sums', 'hand', 'bare');
		CALL bench.create_way('sums', 'hand', 'slices');
		CALL bench.create_way('sums', 'view', 'view');
		SELECT cqrs.resume_projection('view') \g /dev/null
		CREATE MATERIALIZED VIEW bench.refreshed AS
		    SELECT aggregate_id AS order_id, count(*) AS items, sum((payload->>'price')::numeric) AS total
		    FROM cqrs.outbox GROUP BY aggregate_id;
		CREATE UNIQUE INDEX ON bench.refreshed (order_id);
		VACUUM (ANALYZE, FREEZE) cqrs.outbox;
	SQL
	measure_in_turns rebuild "$(size 5 2)" in_place bare slices refresh
	speed_figure "in place, against slices of 10,000 by hand" "" in_place slices
	speed_figure "in place, against REFRESH CONCURRENTLY" "" in_place refresh
	rate_figures "$events" in_place "rebuild in place" bare "emptied and filled by one statement" \
		slices "emptied and filled by slices of 10,000" refresh "REFRESH CONCURRENTLY"
	workers on
}

rebuild_prepare() {
	sql <<<CHECKPOINT
}

rebuild_check() {
	local table expected

	expected=$(sql <<<"SELECT bench.checksum_by_query('sums')")
	for table in view bare slices refreshed; do
		same_work "bench.$table" "$(sql <<<"SELECT bench.checksum('$table', 'sums')")" "$expected"
	done
}

rebuild_measure() {
	local slice=1000000000 used took

	[ "$1" != slices ] || slice=10000
	used=$(server_cpu)
	took=$(rebuild_statement "$1")
	# It has parallel workers.
	[ "$1" != refresh ] || took="${took% *} $(($(server_cpu) - used))"
	echo "$took"
}

rebuild_statement() {
	measured <<-SQL
		SET synchronous_commit = off;
		\timing on
		$(case $1 in
			in_place) echo "CALL cqrs.rebuild_projection('view');" ;;
			refresh) echo "REFRESH MATERIALIZED VIEW CONCURRENTLY bench.refreshed;" ;;
			*) echo "TRUNCATE bench.$1; CALL bench.keep_$1($slice);" ;;
		esac)
	SQL
}
