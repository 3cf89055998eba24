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
	[ -z "$target" ] || verdict=$(verdict "$target" <<<"$values")
	printf '%s,"%s","%s",%s,%s,%s,%s,%s,%s,%s,%s\n' "$suite" "$part" "$what" "$unit" "$median" "$(head -n 1 <<<"$values")" \
		"$(tail -n 1 <<<"$values")" $# "$target" "$verdict" "$*" >>"$csv_file"
	printf "   %-72s %10s %s %s\n" "$what" "$(awk "$report_number BEGIN { print number($median) }")" "$unit" "$verdict" >&2
}

# By which factor two sides that do the same come out apart in this part, as its control tells, for throughput and for
# processor time.
doubt=1 doubt_cpu=1

# Prints whether a target is met, "ok" or "missed", by sorted values on standard input; or "unclear" where these values
# can't tell. They can where the target lies outside of the interval that the median lies in by 90 per cent, by the
# sign test (W. J. Conover, Practical Nonparametric Statistics, 3.2): of less than 8 values all of it from the lowest to
# the highest; and where the doubt about equal sides does not reach it.
verdict() {
	awk -v doubt="$doubt" '
		{ v[NR] = $1 }
		END {
			# the largest k for which at most k - 1 of NR values lie on one side by less than 5 per cent
			for (term = below = 0.5 ^ NR; below <= 0.05; below += term)
				term *= (NR - k) / ++k
			k = k < 1 ? 1 : k
			low = v[k] / doubt; high = v[NR + 1 - k] * doubt
			met = (low '"$1"') + (high '"$1"')
			print met == 2 ? "ok" : met == 0 ? "missed" : "unclear"
		}'
}

# Ends the run when two sides did different work: their figures say nothing then. Takes what is compared, and
# what each side has.
same_work() {
	[ "$2" = "$3" ] || {
		printf 'bench: %s: %s: the sides did not do the same work: "%s" and "%s"\n' "$suite" "$1" "$2" "$3" >&2
		exit 2
	}
}

# Sets the doubt of the part that was measured last by two ways that do the same. Without arguments there is none.
doubt_by() {
	doubt=1 doubt_cpu=1
	[ $# -gt 0 ] && [ -n "${taken[$1]:-}" ] && [ -n "${taken[$2]:-}" ] || return 0
	# shellcheck disable=SC2046 # lists of numbers
	{
		doubt=$(factor "$(median $(quotients "${taken[$1]}" "${taken[$2]}"))")
		doubt_cpu=$(factor "$(median $(quotients "${used[$1]}" "${used[$2]}"))")
	}
}

# Prints how far a ratio is from 1, as a factor of at least 1.
factor() {
	awk -v ratio="$1" 'BEGIN { print ratio < 1 ? 1 / ratio : ratio }'
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
	local doubt=$doubt_cpu

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

# Makes a way of what one took more than another did. Arguments: its name, the ways.
difference_way() {
	taken[$1]=$(differences "${taken[$2]}" "${taken[$3]}")
	used[$1]=$(differences "${used[$2]}" "${used[$3]}")
	applied[$1]=-
}

# Prints the differences of two lists of numbers, one after the other.
differences() {
	paste <(tr -s ' ' '\n' <<<"${1# }") <(tr -s ' ' '\n' <<<"${2# }") | awk '{ printf " %.4f", $1 - $2 }'
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
