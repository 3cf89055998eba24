# shellcheck shell=bash
#
# Figures: ways measured in turns, medians, ratios, targets. Sourced by bench/run.
#
# A way is measured by a function that prints two or three numbers: milliseconds that passed; milliseconds of
# processor time that the server needed, or "-" where nobody counts that; and how many of those went into processing
# what was published, if that is to be told apart.

# What ways took, a list for each, as measure_in_turns leaves it.
declare -A taken used applied

# Says what the figures that follow have in common.
part() {
	part=$1
	[ -z "$part" ] || printf '   -- %s\n' "$part" >&2
}

# Notes a figure: what it is, its unit, the target ("" for none, else ">= X" or "< X"), the values measured.
# The figure is their median.
figure() {
	local what=$1 unit=$2 target=$3 values median verdict=
	shift 3

	[ $# -gt 0 ] && [ "$1" != - ] || return 0
	values=$(printf '%s\n' "$@" | sort -g)
	median=$(median "$@")
	if [ -n "$target" ]; then
		verdict=missed
		! awk "BEGIN { exit !($median $target) }" || verdict=ok
	fi
	printf '%s,"%s","%s",%s,%s,%s,%s,%s,%s,%s\n' "$suite" "$part" "$what" "$unit" "$median" \
		"$(head -n 1 <<<"$values")" "$(tail -n 1 <<<"$values")" $# "$target" "$verdict" >>"$csv_file"
	printf "   %-72s %10s %s %s\n" "$what" "$(awk "$report_number BEGIN { print number($median) }")" "$unit" "$verdict" >&2
}

# Ends the run when two sides did different work: their figures say nothing then. Takes what is compared, and
# what each side has.
same_work() {
	[ "$2" = "$3" ] || {
		printf 'bench: %s: %s: the sides did not do the same work: "%s" and "%s"\n' "$suite" "$1" "$2" "$3" >&2
		exit 2
	}
}

# Measures ways in turns: a round that only warms up, then so many that count, every other one in the opposite
# order. PREFIX_measure measures the way that it is told; PREFIX_prepare comes before each round, and
# PREFIX_check, which ends the run unless all did the same work, after it. Arguments: the prefix, the rounds, the
# ways.
measure_in_turns() {
	local prefix=$1 rounds=$2 ways=("${@:3}") order i way numbers

	taken=()
	used=()
	applied=()
	for ((i = 0; i <= rounds; i++)); do
		order=("${ways[@]}")
		[ $((i % 2)) -eq 0 ] || mapfile -t order < <(printf '%s\n' "${ways[@]}" | tac)
		"${prefix}_prepare"
		for way in "${order[@]}"; do
			"${prefix}_measure" "$way" >"$workspace/numbers"
			[ "$i" -gt 0 ] || continue
			read -ra numbers <"$workspace/numbers"
			taken[$way]+=" ${numbers[0]}"
			used[$way]+=" ${numbers[1]}"
			applied[$way]+=" ${numbers[2]:--}"
		done
		"${prefix}_check"
	done
}

# Notes how fast a way was against another, and how fast it would be if only processor time counted: other load
# on the machine weighs less there. Arguments: what it is, its target, the way, the other one.
speed_figure() {
	local way=$3 other=$4

	[ -n "${taken[$way]:-}" ] && [ -n "${taken[$other]:-}" ] || return 0
	# shellcheck disable=SC2046 # lists of numbers
	{
		figure "$1" ratio "$2" $(quotients "${taken[$other]}" "${taken[$way]}")
		figure "$1, by processor time" ratio "" $(quotients "${used[$other]}" "${used[$way]}")
	}
}

# Notes what a way needs of the processor in relation to another. Arguments as of speed_figure.
cost_figure() {
	# shellcheck disable=SC2046 # a list of numbers
	[ -z "${used[$3]:-}" ] || [ -z "${used[$4]:-}" ] || figure "$1" ratio "$2" $(quotients "${used[$3]}" "${used[$4]}")
}

# Notes how many events a second the ways managed, and what one took of the server's processor time. Arguments:
# the number of events; then, for each way, its name and what to call it.
rate_figures() {
	local events=$1 way
	shift

	# shellcheck disable=SC2046 # lists of numbers
	while [ $# -gt 0 ]; do
		way=$1
		if [ -n "${taken[$way]:-}" ]; then
			figure "$2" events/s "" $(quotients "$events.0e3" "${taken[$way]}")
			figure "$2: processor time of an event" us "" $(quotients "${used[$way]}" "$events.0e-3")
			figure "$2: thereof processing" us "" $(quotients "${applied[$way]}" "$events.0e-3")
		fi
		shift 2
	done
}

# Prints the quotients of two lists of numbers, one after the other. A single number stands for a list of it; a
# list that begins with "-" has no quotients.
quotients() {
	awk -v over="$1" -v under="$2" 'BEGIN {
		n = split(over, o, " "); m = split(under, u, " ")
		if (o[1] == "-" || u[1] == "-") exit
		for (i = 1; i <= (n > m ? n : m); i++)
			printf "%.4f\n", (n == 1 ? o[1] : o[i]) / (m == 1 ? u[1] : u[i])
	}'
}

# Prints the quotient of two numbers.
quotient() {
	quotients "$1" "$2"
}

# The median of the arguments.
median() {
	printf '%s\n' "$@" | sort -g | awk '{ v[NR] = $1 } END {
		print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}
