# shellcheck shell=bash
#
# The results: figures.csv, README.md with the machine, the versions and a table for each suite, and a plot for
# each suite. Sourced by bench/run.

# How awk prints a number: four digits at least, and no exponent.
report_number='function number(x) { return sprintf(x >= 1000 ? "%.0f" : "%.4g", x) } '

# Starts the results.
report_begin() {
	csv_file=$results/figures.csv
	{
		echo "# Results of bench/run"
		echo
		describe_run | sed 's/^/    /'
	} >"$results/README.md"
	sed -n '/./s/^ *//p' "$results/README.md" | tail -n +2
	echo
	echo 'suite,part,what,unit,median,low,high,runs,target,verdict,values' >"$csv_file"
}

# What must be known to make something of the figures.
describe_run() {
	date -u '+%Y-%m-%d %H:%M UTC'
	run_psql -Atc 'SELECT version()'
	echo "cqrs_views $(git -C "$checkout" describe --always --dirty 2>/dev/null || echo 'without a commit')"
	peers_versions
	echo "bench/run $command_line"
	echo "$(awk -F ': ' '/^model name/ { print $2; exit }' /proc/cpuinfo), $(getconf _NPROCESSORS_ONLN) cores," \
		"$(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1048576 }' /proc/meminfo)," \
		"$(df --output=fstype,source "$workspace" | tail -n 1 | tr -s ' '), load $(cut -d ' ' -f 1 /proc/loadavg), Linux $(uname -r)"
	echo "${settings[*]}, autovacuum on; workers commit with synchronous_commit=off, their default"
	[ -z "$quick" ] || echo "--quick: smaller sizes and fewer repetitions than the targets are meant for"
}

# Adds a suite that is through: its table and its plot. Arguments: the load before, the seconds that it took, and its
# exit status.
report_suite() {
	{
		printf '\n## %s\n\n' "$suite"
		if report_plot; then printf '![%s](%s.svg)\n\n' "$suite" "$suite"; fi
		report_rows "$suite" | awk -F '\t' "$report_number"'
			NR == 1 || $2 != last {
				if ($2 != "") printf "%s%s:\n\n", NR == 1 ? "" : "\n", $2
				print "| | median | lowest .. highest | unit | target | |"
				print "|---|---:|---:|---|---|---|"
				last = $2
			}
			{ printf "| %s | %s | %s .. %s | %s | %s | %s |\n", $3, number($5), number($6), number($7), $4, $9, $10 }'
		[ "$3" -eq 0 ] || printf '\n**It did not come to its end.** What is above was measured before that.\n'
		printf '\nLoad of the machine before and after: %s, %s. It took %d:%02d minutes.\n' "$1" \
			"$(cut -d ' ' -f 1 /proc/loadavg)" $(($2 / 60)) $(($2 % 60))
	} >>"$results/README.md"
}

# Prints how many targets have a verdict.
report_verdicts() {
	report_rows "" | cut -f 10 | grep -cx "$1" || true
}

# Prints a suite's figures, or with "" those of all, with tabs between the columns.
report_rows() {
	awk -F '"' -v suite="$1" 'NR > 1 {
		sub(/,$/, "", $1)
		if (suite != "" && $1 != suite) next
		gsub(/,/, "\t", $5)
		printf "%s\t%s\t%s%s\n", $1, $2, $4, $5
	}' "$csv_file"
}

# Prints, for each part of the suite publish, what an event costs the server until it is in the read table: microseconds
# of processor time for publishing, for applying, and their sum. What works in the publisher's transaction has no
# part of its own.
report_pays() {
	report_rows publish | awk -F '\t' '
		{ name = $3 }
		sub(/: processor time of an event$/, "", name) {
			if ($2 != last) {
				if (last != "") tell()
				printf "\n%s:\n\n| server processor time of an event | publishing | applying | together |\n|---|---:|---:|---:|\n", $2
				last = $2
			}
			order[++n] = name; together[name] = $5
		}
		sub(/: thereof processing$/, "", name) { applying[name] = $5 }
		function tell(i, way) {
			for (i = 1; i <= n; i++) {
				way = order[i]
				printf "| %s | %.1f | %s | %.1f us |\n", way, together[way] - applying[way],
					way in applying ? sprintf("%.1f", applying[way]) : "", together[way]
			}
			n = 0; split("", applying)
		}
		END { if (last != "") tell() }'
}

# Prints the table of all figures, and fails when a target was missed.
report_end() {
	local missed pays

	pays=$(report_pays)
	[ -z "$pays" ] || printf '\n## What a user pays\n%s\n' "$pays" | tee -a "$results/README.md"
	echo
	report_rows "" | awk -F '\t' "$report_number"'
		$1 FS $2 != last { printf "\n%s%s\n", $1, $2 == "" ? "" : ": " $2; last = $1 FS $2 }
		{ printf "  %-72s %9s %9s .. %9s %-8s %-8s %s\n", $3, number($5), number($6), number($7), $4, $9, $10 }'
	missed=$(report_verdicts missed)
	echo
	echo "$(report_verdicts ok) targets met, $missed missed, $(report_verdicts unclear) unclear; results in $results"
	[ -z "$(peers_absent)" ] || echo "Not there, and so without their targets: $(peers_absent)"
	[ "$missed" -eq 0 ]
}

# Draws a suite's plot, a panel of bars for each part and unit; fails where there is no gnuplot. The lines tell the
# lowest and highest values. Times that somebody waits are on a logarithmic scale, being orders of magnitude apart.
report_plot() {
	local folder=$workspace/plot panels panel n row=0 rows from

	command -v gnuplot >/dev/null || return 1
	rm -rf "$folder"
	mkdir "$folder"
	# A panel is a file. Its last figure comes first, as gnuplot counts from below.
	report_rows "$suite" | awk -F '\t' -v folder="$folder" '
		/by processor time\t/ { next }
		{
			unit = $4
			if (sub(/: processor time of an event$/, "", $3)) unit = unit " of processor time for an event"
			if (sub(/: thereof processing$/, "", $3)) unit = unit " of it for processing"
			key = $2 FS unit
			if (!(key in number)) number[key] = ++n
			file = sprintf("%s/%03d", folder, number[key])
			title[file] = ($2 == "" ? $1 : $2) (unit == "" ? "" : "; " unit)
			rows[file] = sprintf("\"%s\"\t%s\t%s\t%s\n", $3, $5, $6, $7) rows[file]
		}
		END { for (file in rows) { printf "%s", rows[file] >file; print title[file] >(file ".title") } }'
	mapfile -t panels < <(find "$folder" -name '[0-9]*[0-9]' | sort)
	rows=$(cat "${panels[@]}" | wc -l)
	rows=$((rows + 3 * ${#panels[@]}))
	{
		echo "set terminal svg noenhanced size 1000, $((rows * 22)) font 'sans-serif,12' background 'white'"
		echo "set output '$results/$suite.svg'"
		echo "set multiplot; unset key; set style fill solid 0.6; set grid x; set border 1; set tics nomirror"
		echo "set ytics scale 0; set lmargin at screen 0.5; set rmargin at screen 0.96"
		for panel in "${panels[@]}"; do
			n=$(wc -l <"$panel")
			echo "set label 1 \"$(<"$panel.title")\" at screen 0.02, screen 1 - ($row + 0.7) / $rows. font ',13'"
			echo "set tmargin at screen 1 - ($row + 1.2) / $rows."
			echo "set bmargin at screen 1 - ($row + 1.2 + $n) / $rows."
			echo "set format x '$(awk '$NF >= 10000 { large = 1 } END { print large ? "%.0s%c" : "%g" }' "$panel")'"
			echo "set yrange [-0.5:$n - 0.5]"
			from=0
			[[ $(<"$panel.title") != *'; ms' ]] ||
				from=$(awk -F '\t' 'NR == 1 || $3 < low { low = $3 } END { print (low > 0 ? 10 ^ (int(log(low) / log(10) + 100) - 100) : 0) }' "$panel")
			echo "$([ "$from" = 0 ] && echo unset || echo set) logscale x; set xrange [$from:*]"
			echo "plot '$panel' using 2:0:($from):2:(\$0 - 0.35):(\$0 + 0.35):ytic(1) with boxxyerror lc rgb '#4477aa'," \
				"'' using 2:0:3:4 with xerrorbars pt 0 lc rgb 'black'"
			row=$((row + n + 3))
		done
	} >"$folder/script"
	gnuplot "$folder/script" 2>"$folder/errors" || { cat "$folder/errors" >&2; return 1; }
}
