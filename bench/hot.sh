# shellcheck shell=bash
#
# Suite hot: all events are of one order, whose row in the read table everybody wants. Sourced by bench/run.

suite_hot() {
	local peers repetitions

	repetitions=$(size 5 2)
	drain sums 1 10000 slices_10000 bare view_10000 view_10000_worker view_default batch_10000 reducer_10000
	drain_figures

	# What works in the publishers' transactions makes them wait for each other's commits, by hand or not.
	peers_create plain row_trigger statement_trigger async async__apart inline loop pgq
	seconds=$(size 3 1) repetitions=$(size 3 1) clients=8 commit=on keys=1
	publish_part 1 "8 clients, single rows of one order"
	keys=
	peers_drop
	workers on
}
