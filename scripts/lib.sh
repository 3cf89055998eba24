# shellcheck shell=bash
#
# Builds cqrs_views and runs it on a throwaway server that leaves nothing behind.
#
# Sourced by the scripts that need a server. All that they make lies in one temporary folder: a copy of
# the sources (so the checkout stays clean, and may belong to somebody else), a copy of the server's files
# (so the extension is installed into that copy and never into the system) and the cluster. The server
# listens on a unix socket in that folder only, and runs as an ordinary user also when root calls.
#
# The order of calls:
#
#     need_packages server build       # install what the machine lacks
#     open_workspace                   # make the temporary folder; it goes when the script ends
#     copy_server
#     copy_sources
#     build_extension                  # and install it into the copied server
#     start_server fsync=off           # settings as name=value
#     run_psql -c 'CREATE EXTENSION cqrs_views'
#
# The caller has `set -euo pipefail`. For it to read, set by the function in brackets:
#
#     checkout      the folder that holds the scripts
#     workspace     the temporary folder                          [open_workspace]
#     server_user   the operating system user that runs things    [open_workspace]
#     real_bindir   the programs of the server that was copied    [copy_server]
#     bindir        the programs of the copy                      [copy_server]
#     pg_config     the pg_config of the copy                     [copy_server]
#     sources       the copy of the checkout                      [copy_sources]
#     socket_dir    where the server listens                      [start_server]
#     server_log    its log file                                  [start_server]

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
oldest_version=15

workspace=
keep_workspace=
server_user=
switch_user=()
libpq_dir=
job=
background_jobs=()

# ---------------------------------------------------------------------------------------------------------
# Messages
# ---------------------------------------------------------------------------------------------------------

# Says in a line what is done next.
say() {
	printf '== %s\n' "$*" >&2
}

# Ends the script with a message.
die() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# ---------------------------------------------------------------------------------------------------------
# What the machine must have
# ---------------------------------------------------------------------------------------------------------

# Installs the Debian packages that the named purposes lack: server (PostgreSQL and its development files),
# build (make and a C compiler), tap (tests in Perl), monitoring (an exporter of metrics), node (Node.js and npm),
# browser (Chromium), callgrind (counting instructions). Says what it installs; silent when nothing is missing.
need_packages() {
	local missing as_root=()

	mapfile -t missing < <(missing_packages "$@")
	[ ${#missing[@]} -gt 0 ] || return 0

	command -v apt-get >/dev/null ||
		die "please install ${missing[*]}, or what this system calls them"
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null ||
			die "packages are missing; please run as root: apt-get install ${missing[*]}"
		as_root=(sudo)
	fi

	say "Installing ${missing[*]} (can take some minutes)"
	install_packages "${missing[@]}" || die "could not install ${missing[*]}"

	mapfile -t missing < <(missing_packages "$@")
	[ ${#missing[@]} -eq 0 ] || die "cannot find what these packages should have brought: ${missing[*]}"
}

# Prints the packages that the named purposes lack, one a line. Looks for the thing itself, not for the
# package, so it is content with a compiler or a server that came in another way.
missing_packages() {
	local purpose

	for purpose in "$@"; do
		case $purpose in
			server)
				# With PG_CONFIG the server is the caller's own business: copy_server says what it lacks. These
				# bring the version that the distribution is made with: 15 in Debian 12.
				if [ -z "${PG_CONFIG:-}" ] && ! default_pg_config >/dev/null; then
					printf '%s\n' postgresql postgresql-server-dev-all
				fi
				;;
			build)
				command -v make >/dev/null || echo make
				if command -v cc >/dev/null || command -v gcc >/dev/null; then
					echo '#include <stdio.h>' | "$(command -v cc || command -v gcc)" -E - >/dev/null 2>&1 ||
						echo libc6-dev
				else
					printf '%s\n' gcc libc6-dev
				fi
				;;
			tap)
				command -v prove >/dev/null || echo perl
				perl -MIPC::Run -e 1 2>/dev/null || echo libipc-run-perl
				;;
			monitoring) command -v prometheus-postgres-exporter >/dev/null || echo prometheus-postgres-exporter ;;
			node)
				command -v node >/dev/null || echo nodejs
				command -v npm >/dev/null || echo npm
				;;
			browser) command -v chromium >/dev/null || echo chromium ;;
			callgrind) command -v valgrind >/dev/null || echo valgrind ;;
		esac
	done
}

# Installs packages as root, by way of the caller's as_root. Debian's PostgreSQL would create and start
# a cluster named "main"; nobody asked for one, so that is switched off for the time of the installation.
install_packages() {
	local log status=0

	log=$(mktemp)
	"${as_root[@]}" sh -s -- "$@" >"$log" 2>&1 <<'SH' || status=$?
		export DEBIAN_FRONTEND=noninteractive LC_ALL=C
		no_cluster=/etc/postgresql-common/createcluster.d/cqrs_views.conf
		trap 'rm -f "$no_cluster"' EXIT
		trap 'exit 1' INT TERM HUP
		mkdir -p "${no_cluster%/*}"
		echo "create_main_cluster = false" >"$no_cluster"
		apt-get -q update </dev/null || echo "apt-get update failed; trying with what is known" >&2
		apt-get -q -y -o Dpkg::Use-Pty=0 --no-install-recommends install "$@" </dev/null
SH
	[ "$status" -eq 0 ] || tail -n 40 "$log" >&2
	rm -f "$log"
	return "$status"
}

# Prints the pg_config to use when the caller named none: Debian's PostgreSQL 15, else the one in PATH. Fails
# when neither belongs to a server that one can build for and run.
default_pg_config() {
	local candidate

	for candidate in /usr/lib/postgresql/15/bin/pg_config "$(command -v pg_config || true)"; do
		if [ -n "$candidate" ] && [ -z "$(server_defect "$candidate")" ]; then
			echo "$candidate"
			return 0
		fi
	done
	return 1
}

# Prints why the server that a pg_config belongs to cannot be used; nothing when it can.
server_defect() {
	local config=$1 version

	version=$("$config" --version 2>/dev/null) || true
	case $version in
		PostgreSQL\ [0-9]*) version=${version#PostgreSQL } ;;
		*)
			echo "it is not a pg_config that works"
			return 0
			;;
	esac
	if [ "${version%%[!0-9]*}" -lt "$oldest_version" ]; then
		echo "it belongs to PostgreSQL $version, and cqrs_views needs $oldest_version or later"
	elif [ ! -x "$("$config" --bindir)/postgres" ] || [ ! -x "$("$config" --bindir)/initdb" ]; then
		echo "there is no server in $("$config" --bindir)"
	elif [ ! -e "$("$config" --pgxs)" ] || [ ! -e "$("$config" --includedir-server)/postgres.h" ]; then
		echo "the files for building extensions are missing (Debian: postgresql-server-dev-${version%%[!0-9]*})"
	fi
}

# ---------------------------------------------------------------------------------------------------------
# The temporary folder, and who works in it
# ---------------------------------------------------------------------------------------------------------

# Makes the temporary folder, owned by the user that is to run the server: the caller, or where the caller
# is root, whom PostgreSQL refuses, the user postgres or else nobody. It goes when the script ends, and what
# runs in it is stopped, unless keep_workspace is set by then.
open_workspace() {
	local base name

	umask 022
	server_user=$(id -un)
	if [ "$(id -u)" -eq 0 ]; then
		server_user=
		for name in postgres nobody; do
			if id -u "$name" >/dev/null 2>&1; then
				server_user=$name
				break
			fi
		done
		[ -n "$server_user" ] || die "root cannot run a PostgreSQL server, and there is no user postgres or nobody"
		if command -v setpriv >/dev/null; then
			switch_user=(setpriv "--reuid=$server_user" "--regid=$(id -g "$server_user")" --init-groups)
		else
			switch_user=(runuser -u "$server_user" --)
		fi
	fi

	# A unix socket's path has room for about 100 bytes, so a long TMPDIR is not for us; nor is one that the
	# server's user cannot enter.
	for base in "${TMPDIR:-/tmp}" /tmp; do
		[ ${#base} -le 50 ] || continue
		workspace=$(mktemp -d "$base/cqrs_views.XXXXXX" 2>/dev/null) || continue
		trap clean_up EXIT
		trap 'exit 129' HUP
		trap 'exit 130' INT
		trap 'exit 143' TERM
		[ "$(id -u)" -ne 0 ] || chown "$server_user:" "$workspace"
		if as_server_user mkdir "$workspace/tmp" 2>/dev/null; then
			return 0
		fi
		rm -rf "$workspace"
		workspace=
	done
	die "could not make a temporary folder in ${TMPDIR:-/tmp}"
}

# Runs a command as the server's user, in the workspace. The caller's own PostgreSQL and locale settings
# are kept from it, so that the outcome is the same for everybody.
as_server_user() (
	local variable

	cd "$workspace" || exit
	for variable in $(compgen -e); do
		case $variable in
			PG_TEST_*) ;;
			PG* | LC_* | LANGUAGE | MAKEFLAGS | MAKELEVEL | PERL5LIB) unset "$variable" ;;
		esac
	done
	export HOME=$workspace TMPDIR=$workspace/tmp LANG=C.UTF-8
	if [ -n "${bindir:-}" ]; then
		export PATH=$bindir:$PATH LD_LIBRARY_PATH=$libpq_dir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
	fi
	if [ -n "${socket_dir:-}" ]; then
		export PGHOST=$socket_dir PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
	fi
	# The switch of user comes last but for env, because it may drop LD_LIBRARY_PATH.
	exec "${switch_user[@]}" env "LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}" "$@"
)

# Runs a command that takes long, as a job of its own, so that a signal to the script ends it at once and
# with all its children. What it prints is appended to the file that the first argument names, or shown when
# that is "-". (A redirection of the call itself would swallow what clean_up has to say.) Returns the
# command's status.
run_job() {
	local log=$1 status=0
	shift

	set -m
	if [ "$log" = - ]; then
		"$@" </dev/null &
	else
		"$@" </dev/null >>"$log" 2>&1 &
	fi
	job=$!
	set +m
	wait "$job" || status=$?
	job=
	return "$status"
}

# Starts a command as a job of its own, in the background, and sets started to its process id for wait. When
# the script ends, so do the job and all its children.
start_job() {
	set -m
	"$@" &
	started=$!
	set +m
	background_jobs+=("$started")
}

# Ends a job with all its children: asks, and after ten seconds insists.
end_group() {
	local tries

	kill -TERM -- "-$1" 2>/dev/null || return 0
	for ((tries = 0; tries < 100; tries++)); do
		kill -0 -- "-$1" 2>/dev/null || return 0
		sleep 0.1
	done
	kill -KILL -- "-$1" 2>/dev/null || true
}

# At the script's end: stops what was started and removes the temporary folder. A script that has something
# to say about an untimely end defines a function before_clean_up, which gets the exit status.
clean_up() {
	local status=$? pid

	trap '' HUP INT TERM
	trap - EXIT
	if [ -n "$job" ]; then
		end_group "$job"
	fi
	if declare -F before_clean_up >/dev/null; then
		before_clean_up "$status"
	fi
	for pid in "${background_jobs[@]}"; do
		end_group "$pid"
	done
	if [ -n "$workspace" ] && [ -z "$keep_workspace" ]; then
		stop_all_servers
		cd /
		rm -rf "$workspace" 2>/dev/null || { sleep 1; rm -rf "$workspace"; }
	fi
	exit "$status"
}

# Stops every server whose data lies in the workspace: ours, and those that a test left running.
stop_all_servers() {
	local pid_file

	[ -n "${bindir:-}" ] || return 0
	while IFS= read -r pid_file; do
		as_server_user "$bindir/pg_ctl" stop -D "${pid_file%/*}" -m immediate -t 60 -s >/dev/null 2>&1 || true
	done < <(find "$workspace" -name postmaster.pid 2>/dev/null)
}

# ---------------------------------------------------------------------------------------------------------
# The private server and the extension in it
# ---------------------------------------------------------------------------------------------------------

# Copies the files of the server that PG_CONFIG names, or the default one, into the workspace. Each folder
# keeps its path below $workspace/server, because PostgreSQL's programs find their files by the way that
# leads from one to the other.
copy_server() {
	local config defect folder program paths=()

	if [ -n "${PG_CONFIG:-}" ]; then
		config=$(command -v "$PG_CONFIG") || die "PG_CONFIG=$PG_CONFIG: there is no such program"
		config=$(cd "$(dirname "$config")" && pwd)/$(basename "$config")
		defect=$(server_defect "$config")
		[ -z "$defect" ] || die "PG_CONFIG=$PG_CONFIG: $defect"
	else
		config=$(default_pg_config) || die "there is no PostgreSQL server to use; PG_CONFIG=... names one"
	fi
	say "Using $("$config" --version)"
	real_bindir=$("$config" --bindir)

	# The programs' folder may hold all sorts of things beside PostgreSQL's.
	for program in postgres initdb psql pgbench pg_amcheck pg_basebackup pg_checksums pg_combinebackup \
		pg_config pg_controldata pg_createsubscriber pg_ctl pg_dump pg_dumpall pg_isready pg_receivewal \
		pg_recvlogical pg_resetwal pg_restore pg_rewind pg_test_fsync pg_upgrade pg_verifybackup pg_waldump \
		createdb createuser dropdb dropuser reindexdb vacuumdb; do
		[ ! -e "$real_bindir/$program" ] || paths+=("${real_bindir#/}/$program")
	done
	for folder in --pkglibdir --sharedir --includedir-server; do
		folder=$("$config" "$folder")
		paths+=("${folder#/}")
	done
	libpq_dir=$("$config" --libdir)
	for program in "$libpq_dir"/libpq.so*; do
		[ ! -e "$program" ] || paths+=("${program#/}")
	done

	# Symbolic links become what they point to, since that may lie outside of the copied folders.
	as_server_user mkdir server
	tar -C / --dereference --ignore-failed-read --exclude='*/man' -cf - "${paths[@]}" 2>/dev/null |
		as_server_user tar -C server -xf - ||
		die "could not copy the server's files"

	libpq_dir=$workspace/server$libpq_dir
	bindir=$workspace/server$real_bindir
	pg_config=$bindir/pg_config
	as_server_user "$pg_config" --version >/dev/null 2>&1 ||
		die "cannot run programs in $workspace; TMPDIR=... names another place"
	for folder in --pkglibdir --sharedir --includedir-server --pgxs; do
		case $(as_server_user "$pg_config" "$folder") in
			"$workspace"/*) ;;
			*) die "a copy of this server still uses $("$config" "$folder"), so the extension cannot be tried apart" ;;
		esac
	done
}

# Copies the checkout, without what a build or a test run left in it.
copy_sources() {
	sources=$workspace/sources
	as_server_user mkdir "$sources"
	tar -C "$checkout" --exclude=./.git --exclude='*.o' --exclude='*.bc' --exclude='*.so' --exclude='*.dylib' \
		--exclude=./results --exclude=./output_iso --exclude=./tmp_check --exclude=./log -cf - . |
		as_server_user tar -C "$sources" -xf - ||
		die "could not copy the sources"
}

# Runs make in the copied sources, for the private server. Bitcode for JIT is left out: it doubles the time
# and changes nothing here. A caller can say otherwise.
run_make() {
	as_server_user make -C "$sources" --no-print-directory PG_CONFIG="$pg_config" with_llvm=no "$@"
}

# Builds the extension and installs it into the private server. Arguments go to the compiling make. Shows
# the compiler's output only when there is something to see in it.
build_extension() {
	local log=$workspace/build.log

	say "Building cqrs_views"
	if ! run_job "$log" run_make -s -j "$(getconf _NPROCESSORS_ONLN)" "$@" ||
		! run_job "$log" run_make -s "$@" install; then
		cat "$log" >&2
		die "the build failed"
	fi
	if grep -q 'warning: ' "$log"; then
		grep -A 6 'warning: ' "$log" >&2
	fi
}

# Makes a cluster and starts it, with the settings given as name=value. What is not said is PostgreSQL's
# default, except that the extension is preloaded. The superuser is postgres and needs no password.
start_server() {
	say "Starting a server in $workspace"
	data_dir=$workspace/data
	server_log=$workspace/server.log
	start_cluster "$data_dir" "$server_log" 5432 "$@"
	socket_dir=$workspace/socket
}

# The same for one of several clusters, which share the folder of their sockets: its data, its log, its port.
start_cluster() {
	local data=$1 log=$2 port=$3 setting name value
	shift 3

	as_server_user mkdir -p "$workspace/socket"
	as_server_user "$bindir/initdb" -D "$data" -U postgres -A trust -E UTF8 --no-locale -N \
		>"$workspace/initdb.log" 2>&1 || {
		cat "$workspace/initdb.log" >&2
		die "could not make a cluster"
	}
	for setting in shared_preload_libraries=cqrs_views "$@" \
		listen_addresses= "unix_socket_directories=$workspace/socket" "port=$port"; do
		name=${setting%%=*}
		value=${setting#*=}
		printf "%s = '%s'\n" "$name" "${value//\'/\'\'}"
	done | as_server_user tee -a "$data/postgresql.conf" >/dev/null
	as_server_user "$bindir/pg_ctl" start -D "$data" -l "$log" -w -s >/dev/null </dev/null || {
		cat "$log" >&2
		die "the server did not start"
	}
}

# Stops the server in an orderly way. Fails when it does not stop in the given number of seconds.
stop_server() {
	as_server_user "$bindir/pg_ctl" stop -D "$data_dir" -m fast -t "${1:-60}" -w -s
}

# Runs the private server's psql; connected to the server as postgres unless the arguments say otherwise.
# An error ends it with status 3.
run_psql() {
	as_server_user "$bindir/psql" -X -q -v ON_ERROR_STOP=1 "$@"
}
