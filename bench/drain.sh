# shellcheck shell=bash
#
# Suite drain: a backlog into one read table, by every kind of handler and size of batches. Sourced by bench/run.
#
# Each round publishes new events, and each way adds them to a read table of its own. A way's name says what it
# is: by hand, slices_SIZE, packed_SIZE and bare; by the extension, KIND_SIZE, with _worker added where it is a worker's work
# and not catch_up's.

suite_drain() {
	local repetitions

	repetitions=$(size 5 3)
	drain sums 1000 10000 slices_10000 packed_10000 bare view_10000 view_10000_worker view_default view_default_worker batch_10000 batch_10000_worker \
		reducer_10000 event_10000 event_10000_worker row_trigger no_trigger
	drain_figures

	# Here each batch touches every row of the read table, and the upsert is nearly all there is to do.
	drain sums 10000 10000 slices_10000 packed_10000 bare view_10000 view_10000_worker view_default batch_10000 batch_10000_worker \
		reducer_10000
	drain_figures

	drain sums 1000 1000 slices_1000 view_1000 view_1000_worker batch_1000 reducer_1000
	drain_figures
	drain sums 1000 100 slices_100 view_100 batch_100 reducer_100
	drain_figures

	drain_peers 1000
	drain_peers 10000
	workers on
}

# Measures what one would use instead, with so many orders, each peer in a database of its own.
drain_peers() {
	local peers peer target

	orders=$1
	backlog=100000
	part "100,000 events of $orders orders, batches of 10,000, by catch_up and by others"
	workers off
	peers_create slices once async loop pgq pgque pgmq pg_incremental refresh emmett
	declare -A published=()
	measure_in_turns drain_peers "$(size 5 2)" "${peers[@]}"
	for peer in "${peers[@]}"; do
		case $peer in
			async) continue ;;
			slices) target='>= 0.95' ;;
			once | pg_incremental) target='>= 0.7' ;;
			pgq) target='>= 3' ;;
			refresh) target= ;;
			*) target='>= 1' ;;
		esac
		speed_figure "view, against ${peer_meaning[$peer]}" "$target" async "$peer"
	done
	for peer in "${peers[@]}"; do
		rate_figures 1 "$peer" "${peer_meaning[$peer]}"
	done
	peers_drop
}

# Prints how many events a peer gets in a round: Emmett fewer, as it takes them one at a time.
drain_peers_events() {
	if [ "$1" = emmett ]; then echo 5000; else echo "$backlog"; fi
}

drain_peers_prepare() {
	peers_publish 10000
}

# Gives all peers new events, in transactions of so many.
peers_publish() {
	local peer database events

	for peer in "${peers[@]}"; do
		database=peer_$peer
		events=$(drain_peers_events "$peer")
		sql <<<"CALL bench.publish_backlog($events, $orders, ${published[$peer]:-0} + 1, $1)"
		sql <<<'VACUUM (ANALYZE)'
		published[$peer]=$((${published[$peer]:-0} + events))
	done
	sql <<<CHECKPOINT
}

# Ends the run unless all have made of the events what there is to make of them.
drain_peers_check() {
	peers_check
}

peers_check() {
	local peer database

	for peer in "${peers[@]}"; do
		database=peer_$peer
		same_work "read table of $peer" \
			"$(sql <<<"SELECT bench.checksum_of('SELECT order_id, items, round(total, 2) FROM bench.kept')")" \
			"$(sql <<-SQL
				SELECT bench.checksum_of('SELECT aggregate_id, count(*), round(sum((payload->>''price'')::numeric), 2)
				FROM bench.events(1, ${published[$peer]}, $orders) GROUP BY aggregate_id')
			SQL
			)"
	done
}

drain_peers_measure() {
	peer_catch_up "$1"
}

# Has a peer process what there is. Prints what an event took.
peer_catch_up() {
	local database=peer_$1 call='bench.consume()' used took events

	events=$(drain_peers_events "$1")
	case $1 in
		emmett)
			used=$(server_cpu)
			echo "$(peer_drain_emmett 10000) $(($(server_cpu) - used))"
			;;
		refresh)
			# It has parallel workers.
			used=$(server_cpu)
			took=$(measured_call "$call")
			echo "${took% *} $(($(server_cpu) - used))"
			;;
		async) measured_call "cqrs.catch_up('kept')" ;;
		*) measured_call "$call" ;;
	esac | awk -v events="$events" '{ print $1 / events, $2 / events }'
}

# Notes how fast ways were, with this suite's targets, and all rates.
drain_figures() {
	local slices=slices_$batch

	speed_figure "view, catch_up, against slices by hand" "$([ "$batch" = 100 ] || echo '>= 0.95')" "view_$batch" "$slices"
	speed_figure "view, worker, against slices by hand" ">= 0.95" "view_${batch}_worker" "$slices"
	speed_figure "view, default batches, against one bare statement" ">= 0.7" view_default bare
	speed_figure "view, worker, default batches, against one bare statement" ">= 0.7" view_default_worker bare
	speed_figure "view, catch_up, against slices by hand into a table of default fillfactor" "" "view_$batch" "packed_$batch"
	speed_figure "batch handler, catch_up, against slices by hand" \
		"$([ "$batch" != 10000 ] || echo '>= 0.85')" "batch_$batch" "$slices"
	speed_figure "batch handler, worker, against slices by hand" ">= 0.85" "batch_${batch}_worker" "$slices"
	speed_figure "reducer, catch_up, against slices by hand" \
		"$([ "$batch" != 10000 ] || echo '>= 0.5')" "reducer_$batch" "$slices"
	[ -z "${taken[row_trigger]:-}" ] || difference_way trigger_alone row_trigger no_trigger
	speed_figure "event handler, catch_up, against a row trigger" ">= 1" event_10000 trigger_alone
	speed_figure "event handler, worker, against a row trigger" ">= 1" event_10000_worker trigger_alone
	drain_rates
}

# Notes how many events a second all ways managed.
drain_rates() {
	rate_figures "$events" "slices_$batch" "by hand in slices of $batch" \
		"packed_$batch" "the same into a table of default fillfactor" bare "by hand in one bare statement" \
		"view_$batch" "view, catch_up" "view_${batch}_worker" "view, worker" \
		view_default "view, default batches, catch_up" view_default_worker "view, default batches, worker" \
		"batch_$batch" "batch handler, catch_up" "batch_${batch}_worker" "batch handler, worker" \
		"reducer_$batch" "reducer, catch_up" "event_$batch" "event handler, catch_up" \
		"event_${batch}_worker" "event handler, worker" \
		trigger_alone "row trigger, without filling its table" no_trigger "filling that table"
}

# Measures ways. Arguments: the shape, the number of orders, the size of batches that the part is about, the ways.
drain() {
	local way kind

	shape=$1 orders=$2 batch=$3 ways=("${@:4}") events=100000
	part "100,000 events of $orders orders, batches of $batch"
	fresh_database shapes.sql
	workers off
	tables=()
	for way in "${ways[@]}"; do
		kind=${way%%_*}
		case $kind in
			slices | bare) sql <<<"CALL bench.create_way('$shape', 'hand', '$way')" ;;
			packed) sql <<<"CALL bench.create_way('$shape', 'packed', '$way')" ;;
			row | no) continue ;;
			*) sql <<<"CALL bench.create_way('$shape', '$kind', '$way', $(drain_batch_size "$way"))" ;;
		esac
		tables+=("bench.$way")
	done
	sql <<<'CREATE TRIGGER keep AFTER INSERT ON bench.plain_outbox
		FOR EACH ROW EXECUTE FUNCTION bench.keep_by_row_trigger()'
	measure_in_turns drain "$repetitions" "${ways[@]}"
}

# Prints the batch size that a way's name says, or NULL.
drain_batch_size() {
	local size=${1#*_}

	size=${size%_worker}
	if [ "$size" = default ]; then echo NULL; else echo "$size"; fi
}

drain_prepare() {
	before=$(sql <<<'SELECT coalesce(max(position), 0) FROM cqrs.outbox')
	sql <<-SQL
		CALL bench.publish($events, orders => $orders, status_every => $([ "$shape" = last ] && echo 7 || echo NULL));
		VACUUM (ANALYZE, FREEZE) cqrs.outbox;
		VACUUM (ANALYZE) bench.by_hand, $(IFS=,; echo "${tables[*]}");
		TRUNCATE bench.plain_outbox;
		CHECKPOINT;
	SQL
}

# Ends the run unless all ways' tables show what the query over all events does.
drain_check() {
	local expected table

	expected=$(sql <<<"SELECT bench.checksum_by_query('$shape')")
	for table in "${tables[@]}"; do
		same_work "read table of ${table#bench.}" \
			"$(sql <<<"SELECT bench.checksum('${table#bench.}', '$shape')")" "$expected"
	done
	case " ${ways[*]} " in
		*" row_trigger "*) same_work "table of the row trigger" \
			"$(sql <<<"SELECT bench.checksum('by_hand', '$shape')")" "$expected" ;;
	esac
}

drain_measure() {
	local slice=1000000000

	case $1 in
		slices_* | packed_* | bare)
			[ "$1" = bare ] || slice=${1#*_}
			measured <<-SQL
				SET synchronous_commit = off;
				\timing on
				CALL bench.keep_$1($slice, after => $before);
			SQL
			;;
		row_trigger | no_trigger)
			measured <<-SQL
				TRUNCATE bench.plain_outbox;
				ALTER TABLE bench.plain_outbox $([ "$1" = row_trigger ] && echo ENABLE || echo DISABLE) TRIGGER keep;
				SET synchronous_commit = off;
				\timing on
				CALL bench.copy_by_hand(10000, after => $before);
			SQL
			;;
		*_worker)
			workers on
			resume_for_worker "$1" "bench.$1"
			sql <<<"SELECT cqrs.pause_projection('$1')" >/dev/null
			workers off
			;;
		*)
			measured <<-SQL
				SELECT cqrs.resume_projection('$1') \g /dev/null
				SET synchronous_commit = off;
				\timing on
				CALL cqrs.catch_up('$1');
				\timing off
				SELECT cqrs.pause_projection('$1') \g /dev/null
			SQL
			;;
	esac
}
