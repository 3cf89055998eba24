# shellcheck shell=bash
#
# Figures: medians, targets, the table at the end and the CSV file. Sourced by bench/run.

failed_targets=0
other_work=0

# Starts the CSV file.
figures_begin() {
	csv_file=$1
	echo "suite,what,measured,low,high,unit,target,verdict" >"$csv_file"
}

# Notes a figure: what it is, its unit, the target ("" for none, else ">= X" or "< X"), the values measured.
# The figure is their median.
figure() {
	local what=$1 unit=$2 target=$3 values median low high verdict=
	shift 3

	values=$(printf '%s\n' "$@" | sort -g)
	median=$(median "$@")
	low=$(head -n 1 <<<"$values")
	high=$(tail -n 1 <<<"$values")
	if [ -n "$target" ]; then
		if awk "BEGIN { exit !($median $target) }"; then
			verdict=pass
		else
			verdict=FAIL
			failed_targets=$((failed_targets + 1))
		fi
	fi
	printf '%s,"%s",%s,%s,%s,%s,%s,%s\n' "$suite" "$what" "$median" "$low" "$high" "$unit" "$target" "$verdict" \
		>>"$csv_file"
	printf '   %-72s %10.4g %s %s\n' "$what" "$median" "$unit" "$verdict" >&2
}

# Ends the run when two sides did different work: their figures say nothing then. Takes what is compared, and
# what each side has.
same_work() {
	[ "$2" = "$3" ] || {
		printf 'bench: %s: %s: the sides did not do the same work: "%s" and "%s"\n' "$suite" "$1" "$2" "$3" >&2
		exit 2
	}
}

# The median of the arguments.
median() {
	printf '%s\n' "$@" | sort -g | awk '{ v[NR] = $1 } END {
		print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# What ways took, a list for each, as measure_in_turns leaves it.
declare -A taken

# Measures ways in turns: a round that only warms up, then so many that count, every other one in the opposite
# order. PREFIX_WAY prints what a way took; PREFIX_prepare comes before each round, and PREFIX_check, which ends
# the run unless all did the same work, after it. Arguments: the prefix, the rounds, the ways.
measure_in_turns() {
	local prefix=$1 rounds=$2 ways=("${@:3}") order i way took

	taken=()
	for ((i = 0; i <= rounds; i++)); do
		order=("${ways[@]}")
		[ $((i % 2)) -eq 0 ] || mapfile -t order < <(printf '%s\n' "${ways[@]}" | tac)
		"${prefix}_prepare"
		for way in "${order[@]}"; do
			took=$("${prefix}_$way")
			[ "$i" -eq 0 ] || taken[$way]+=" $took"
		done
		"${prefix}_check"
	done
}

# Prints the quotients of what two ways took, round by round.
ratios() {
	# shellcheck disable=SC2086 # lists of numbers
	paste -d ' ' <(printf '%s\n' ${taken[$1]}) <(printf '%s\n' ${taken[$2]}) |
		awk '{ printf "%.4f\n", $1 / $2 }'
}

# Notes how fast a way was against another, as a figure. Arguments: what it is, its target, the way, the other
# one.
speed_figure() {
	# shellcheck disable=SC2046 # a list of numbers
	figure "$1" ratio "$2" $(ratios "$4" "$3")
}

# Notes how many transactions a second a way made against another, as a figure: the other way round.
tps_figure() {
	speed_figure "$1" "$2" "$4" "$3"
}

# Prints the quotient of two numbers.
quotient() {
	awk "BEGIN { printf \"%.4f\\n\", $1 / $2 }"
}

# Prints the table, and fails when a target was missed.
figures_end() {
	echo
	awk -F , 'function cell(text) { gsub(/"/, "", text); return text }
		BEGIN { printf "%-8s %-72s %10s %21s %-6s %-8s %s\n",
			"suite", "what", "median", "lowest .. highest", "unit", "target", "" }
		NR > 1 {
			n = split($0, part, "\""); what = part[2]; split(part[3], rest, ",")
			printf "%-8s %-72s %10.4g %9.4g .. %8.4g %-6s %-8s %s\n",
				$1, what, rest[2], rest[3], rest[4], rest[5], rest[6], rest[7]
		}' "$csv_file"
	echo
	echo "$failed_targets of $(grep -cE '(pass|FAIL)$' "$csv_file") targets missed; figures in $csv_file"
	[ "$failed_targets" -eq 0 ]
}
