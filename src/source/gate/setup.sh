#!/bin/sh
# Lets the backup appliance {{HOST}} read from this server, as its source {{NAME}}: an account, its key bound to a gate, and
# the rights to read what the appliance's configuration names. Read it, then run it as root:
#
#   sh setup.sh              sets up, or brings up to date; it can be run again
#   sh setup.sh --remove     takes away what it set up
#
# What it did stands in {{FOLDER}}/done, a line each.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
umask 077

user={{USER}}
key={{KEY}}
whose='{{HOST}} {{NAME}}'
folder={{FOLDER}}
home=/var/lib/vaultberry-$user
gate=$folder/gate
record=$folder/done
now=$folder/done.now
incomplete=

say() {
	printf '%s\n' "$*"
}

fail() {
	printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
	exit 1
}

# trouble WHAT: something that couldn't be done, and doesn't keep the rest from being done.
trouble() {
	printf 'warning: %s\n' "$1" >&2
	incomplete=yes
}

# need PROGRAM PACKAGE
need() {
	command -v "$1" >/dev/null || fail "there is no $1 on this server" "install it; Debian has it in the package $2"
}

# remember LINE: writes down what is to be undone one day.
remember() {
	for file in "$record" "$now"; do
		grep -Fxq -e "$1" "$file" 2>/dev/null || printf '%s\n' "$1" >>"$file"
	done
}

# did LINE: was it this script that did it?
did() {
	grep -Fxq -e "$1" "$record" 2>/dev/null
}

# forget LINE
forget() {
	grep -Fxv -e "$1" "$record" >"$record.part" || true
	mv -f "$record.part" "$record"
}

# own LINE FOUND WHAT: refuses what was found here and isn't this script's, so that --remove can take it away.
own() {
	[ -z "$2" ] || did "$1" ||
		fail "there is $3 here already, which this script didn't make" "write another \`user\` into the source's section"
	remember "$1"
}

# undo KIND OBJECT
undo() {
	case $1 in
	for) ;;
	account) remove_account ;;
	path) unreadable "$2" ;;
	pass | inherit) unpass "$1" "$2" ;;
	role) drop_role ;;
	postgresql) leave_database "$2" ;;
	row-security) heed_row_security ;;
	mariadb-user) drop_mariadb_user ;;
	mariadb) revoke "$2" ;;
	esac
}

# undo_the_rest: undoes, the latest first, what was done once and isn't wanted now.
undo_the_rest() {
	sed '1!G;h;$!d' "$record" >"$record.back"
	while IFS= read -r line <&3; do
		case $line in uid\ *) continue ;; esac
		if grep -Fxq -e "$line" "$now"; then
			continue
		elif undo "${line%% *}" "${line#* }"; then
			forget "$line"
		else
			trouble "couldn't be undone, and stays written down: $line"
		fi
	done 3<"$record.back"
	rm -f -- "$record.back"
}

# --- The account ---

make_account() {
	own account "$(getent passwd "$user")" "an account $user"
	if ! getent passwd "$user" >/dev/null; then
		say "making the account $user, without a password; its home $home is root's"
		useradd --system --no-create-home --home-dir "$home" --shell /bin/sh --password '*' "$user" || {
			forget account
			fail "the account $user couldn't be made" 'see what useradd says above'
		}
	fi
	remember "uid $(id -u "$user")"
	(umask 022 && mkdir -p "$home/.ssh")
	chown root:root "$home" "$home/.ssh"
}

write_gate() {
	say "writing the gate $gate"
	cat >"$gate.part"
	chown "root:$(id -g "$user")" "$gate.part"
	chmod 0750 "$gate.part"
	mv -f "$gate.part" "$gate"
	say "binding the appliance's key to it in $home/.ssh/authorized_keys"
	printf 'restrict,command="%s" %s\n' "$gate" "$key" >"$home/.ssh/authorized_keys.part"
	chmod 0644 "$home/.ssh/authorized_keys.part"
	mv -f "$home/.ssh/authorized_keys.part" "$home/.ssh/authorized_keys"
}

remove_account() {
	# Its number goes to the next account that is made, and with it what is left of its rights.
	[ -z "$incomplete" ] || return 1
	say "removing the account $user and $home"
	end_processes
	if getent passwd "$user" >/dev/null; then userdel "$user" || return 1; fi
	rm -rf -- "$home"
}

end_processes() {
	runuser -u "$user" -- sh -c 'kill -KILL -1' 2>/dev/null || true
}

# --- Files ---

# What find has a shell do with files, in their own folder. An entry for the account raises the mask, which would give back to
# others what a chmod has taken from them: such files are left as they are.
# shellcheck disable=SC2016 # Its own variables.
allow='
user=$1
right=$2
entries=$3
shift 3
getfacl -cpP -- "$@" | grep -q "#effective:" || exec setfacl -P -m "$entries" -- "$@"
has="[rwx-]*$right[rwx-]*"
for file do
	acl=$(getfacl -cpP -- "$file")
	case $acl in
	*"#effective:"*)
		printf "%s\n" "$acl" | grep -Eq "^user:$user:$has([[:space:]]+#effective:$has)?\$" ||
			printf "left as it is, since its mode holds back what its ACL grants: %s/%s\n" "$PWD" "${file#./}" >&2
		;;
	*) setfacl -P -m "$entries" -- "$file" ;;
	esac
done'

# shellcheck disable=SC2016
forbid='
uid=$1
shift
setfacl -P -n -x "u:$uid,d:u:$uid" -- "$@"
ended=$?
[ -n "$(getfacl -cpPs -- "$@")" ] || exit "$ended"
for file do
	acl=$(getfacl -cpP -- "$file")
	printf "%s\n" "$acl" | grep -Eq "^default:(user|group):[^:]" || setfacl -P -k -- "$file"
	printf "%s\n" "$acl" | grep -Eq "^(user|group):[^:]|^[^d].*#effective:" || setfacl -P -n -x m -- "$file" 2>/dev/null
done
exit "$ended"'

# pass FOLDER: lets the account through it, to what is below.
pass() {
	[ "$1" = / ] && return
	pass "$(dirname -- "$1")"
	if ! did "pass $1"; then
		runuser -u "$user" -- test -x "$1" && return
		say "letting $user through $1"
	fi
	remember "pass $1"
	sh -c "$allow" sh "$user" x "u:$user:--x" "$1" || trouble "couldn't let $user through $1"
}

# unpass KIND FOLDER: what inherited an entry from the folder loses it, too.
unpass() {
	[ -d "$2" ] || return 0
	say "letting $user through $2 no more"
	depth=0
	[ "$1" = pass ] || depth=1
	find "$2" -maxdepth "$depth" \( -type d -o -type f \) -execdir sh -c "$forbid" sh "$(uid)" {} +
}

# uid: the account's number, also when it is gone.
uid() {
	sed -n 's/^uid //p' "$record"
}

# led PATH: is a link in it that somebody else than root could have put there?
led() {
	[ "$1" = / ] && return 1
	above=$(dirname -- "$1")
	if [ -L "$1" ] && [ "$(stat -c %u -- "$1") $(stat -c %u -- "$above")" != '0 0' ]; then
		return 0
	fi
	led "$above"
}

# readable PATH [FIND-OPTION…]: lets the account read it and what is below. What is made later in a folder that only its owner and
# group may use inherits that. In other folders it doesn't, because such inheriting takes the place of each program's umask.
readable() {
	path=$1
	shift
	real=$(readlink -f -- "$path" || true)
	if [ ! -e "$real" ]; then
		trouble "there is no $path"
		return
	elif led "$path"; then
		trouble "left as it is, since a link that isn't root's leads $path to $real: write that one, if it is meant"
		return
	fi
	say "letting $user read $path$([ "$real" = "$path" ] || printf ', which is %s' "$real")"
	remember "path $real"
	pass "$(dirname -- "$path")"
	pass "$(dirname -- "$real")"
	# Programs refuse secrets that others than their owner could read: these names, and in /etc and /var/spool all of the kind.
	find "$real" "$@" \( -name .ssh -o -name .gnupg -o -name 'ssh_host_*_key' -o -name 'id_*' -o -name '*.key' -o \
		-name .pgpass -o -name .netrc -o -name .msmtprc -o -name .fetchmailrc -o -name .erlang.cookie \) -prune -o \
		-type f ! -perm /077 \( -path '/etc/*' -o -path '/var/spool/*' \) -o \
		-type d ! -perm /027 -execdir sh -c "$allow" sh "$user" r "u:$user:rX,d:u:$user:rX" {} + -o \
		-type d ! -perm -005 -execdir sh -c "$allow" sh "$user" r "u:$user:rX" {} + -o \
		-type f ! -perm -004 -execdir sh -c "$allow" sh "$user" r "u:$user:rX" {} + ||
		trouble "not all of $path could be made readable for $user"
}

# sqlite PATH: what SQLite keeps beside a database comes and goes, and has to inherit.
sqlite() {
	for file in "$1" "$1-wal" "$1-shm"; do
		if [ "$file" = "$1" ] || [ -e "$file" ]; then readable "$file"; fi
	done
	above=$(dirname -- "$(readlink -f -- "$1")")
	if [ -n "$(find "$above" -maxdepth 0 ! -perm /027)" ]; then
		say "letting $user read what is made in $above from now on"
		remember "inherit $above"
		sh -c "$allow" sh "$user" x "d:u:$user:r" "$above" || trouble "couldn't do that"
	fi
}

unreadable() {
	[ -e "$1" ] || return 0
	say "taking $user's rights on $1"
	find "$1" \( -type d -o -type f \) -execdir sh -c "$forbid" sh "$(uid)" {} +
}

# --- PostgreSQL ---

# superuser DATABASE: has PostgreSQL's superuser run what stdin says. The database's owner chooses what its names mean, unless
# the search path is said.
superuser() {
	(cd / && runuser -u postgres -- env PGOPTIONS='-c search_path=pg_catalog' \
		psql -XAtq --no-password -v ON_ERROR_STOP=1 -v user="$user" -v name="$1" -d "$1")
}

find_role() {
	printf "SELECT 1 FROM pg_roles WHERE rolname = :'user';\n" | superuser postgres
}

role() {
	version=$(printf 'SHOW server_version_num;\n' | superuser postgres)
	[ "$version" -ge 140000 ] || fail "PostgreSQL here is older than 14, which has no pg_read_all_data" \
		'take `postgresql` out of this source, and have a source without a gate for it, with rights that you grant by hand'
	found=$(find_role)
	own role "$found" "a role $user in PostgreSQL"
	if [ -z "$found" ]; then
		say "making PostgreSQL's role $user, which may read all tables"
		printf 'CREATE ROLE :"user" LOGIN;\n' | superuser postgres
	fi
	printf 'SET client_min_messages = warning; GRANT pg_read_all_data TO :"user";\n' | superuser postgres
}

# database NAME: pg_read_all_data covers neither large objects nor what row security hides.
database() {
	say "letting $user dump PostgreSQL's database $1"
	remember "postgresql $1"
	printf 'GRANT CONNECT ON DATABASE :"name" TO :"user";\n' | superuser "$1"
	large=$(printf 'SELECT count(*) FROM pg_largeobject_metadata;\n' | superuser "$1")
	if [ "$large" -gt 0 ]; then
		say "letting it read the $large large objects of $1: run this again when there are new ones"
		printf "SELECT format('GRANT SELECT ON LARGE OBJECT %%s TO %%I', oid, :'user') FROM pg_largeobject_metadata \\\\gexec\n" |
			superuser "$1"
	fi
	if [ -n "$(printf 'SELECT 1 FROM pg_class WHERE relrowsecurity LIMIT 1;\n' | superuser "$1")" ]; then
		say "letting it pass row security (BYPASSRLS), which $1 has: the dump would lack rows"
		remember row-security
		printf 'ALTER ROLE :"user" BYPASSRLS;\n' | superuser postgres
	fi
}

every_database() {
	printf 'SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate;\n' | superuser postgres >"$now.list"
	while IFS= read -r name <&4; do
		# psql takes some names for more. The gate refuses them, too.
		case $name in
		[-.]* | *[/=\\]*) say "leaving out PostgreSQL's database $name, whose name is none for a dump" ;;
		*) database "$name" ;;
		esac
	done 4<"$now.list"
	rm -f -- "$now.list"
}

leave_database() {
	names=$(printf 'SELECT datname FROM pg_database;\n' | superuser postgres) || return 1
	found=$(find_role)
	[ -n "$found" ] || return 0
	printf '%s\n' "$names" | grep -Fxq -e "$1" || return 0
	say "taking $user's rights on PostgreSQL's database $1"
	printf 'DROP OWNED BY :"user";\n' | superuser "$1"
}

heed_row_security() {
	found=$(find_role) || return 1
	[ -n "$found" ] || return 0
	say "having row security hold for $user again"
	printf 'ALTER ROLE :"user" NOBYPASSRLS;\n' | superuser postgres
}

drop_role() {
	found=$(find_role) || return 1
	[ -n "$found" ] || return 0
	say "dropping PostgreSQL's role $user"
	printf 'DROP OWNED BY :"user"; DROP ROLE :"user";\n' | superuser postgres
}

# --- MariaDB and MySQL ---

# client OPTION…: MariaDB's client, as the server's root
client() {
	if command -v mariadb >/dev/null; then mariadb "$@"; else mysql "$@"; fi
}

find_mariadb_user() {
	client -N -B -e "SELECT 1 FROM mysql.user WHERE User = '$user' AND Host = 'localhost'"
}

mariadb_user() {
	version=$(client -N -B -e 'SELECT VERSION()')
	plugin=auth_socket
	case $version in *MariaDB*) plugin=unix_socket ;; esac
	found=$(find_mariadb_user)
	own mariadb-user "$found" "a user $user in MariaDB"
	if [ -z "$found" ]; then
		say "making MariaDB's user $user, who is let in as the account of that name only"
		client -e "CREATE USER '$user'@'localhost' IDENTIFIED WITH $plugin"
	fi
}

# grant ON: routines need more than SELECT, and what that is depends on the version.
grant() {
	say "letting $user dump $1 of MariaDB"
	remember "mariadb $1"
	client -e "GRANT SELECT, LOCK TABLES, SHOW VIEW, TRIGGER, EVENT ON $1 TO '$user'@'localhost'"
	major=${version%%.*}
	minor=${version#*.}
	minor=${minor%%.*}
	case $version in
	*MariaDB*)
		if [ "$major" -gt 11 ] || { [ "$major" = 11 ] && [ "$minor" -ge 3 ]; }; then
			client -e "GRANT SHOW CREATE ROUTINE ON $1 TO '$user'@'localhost'"
		else
			say "letting it read the text of all routines (mysql.proc)"
			client -e "GRANT SELECT ON mysql.proc TO '$user'@'localhost'"
		fi
		;;
	*) client -e "GRANT SHOW_ROUTINE ON *.* TO '$user'@'localhost'" ;;
	esac
}

revoke() {
	found=$(find_mariadb_user) || return 1
	[ -n "$found" ] || return 0
	say "taking $user's rights on $1 of MariaDB"
	client -e "REVOKE ALL PRIVILEGES ON $1 FROM '$user'@'localhost'"
}

drop_mariadb_user() {
	found=$(find_mariadb_user) || return 1
	[ -n "$found" ] || return 0
	say "dropping MariaDB's user $user"
	client -e "DROP USER '$user'@'localhost'"
}

# --- What is wanted ---

needs() {
{{NEEDS}}	:
}

rights() {
{{RIGHTS}}	:
}

[ "$(id -u)" = 0 ] || fail 'this needs root' "sudo sh $0"
case ${1-} in
'' | --remove) ;;
*) fail "unknown argument $1" 'there is none but --remove' ;;
esac
if [ "${1-}" = --remove ]; then
	[ -e "$record" ] || fail "nothing was set up for $user here" 'was it done on another server, or is it removed already?'
elif [ -e "$record" ] && ! did "for $whose"; then
	fail "the account $user is for another: $(sed -n 's/^for //p' "$record")" \
		"write another \`user\` into the source's section, or run this with --remove first"
fi
if [ "${1-}" != --remove ]; then
	needs
	find / -maxdepth 0 -execdir true {} + 2>/dev/null || fail "find here knows no -execdir" "install GNU's; Debian has it in findutils"
	(umask 022 && mkdir -p "$folder")
	touch "$record"
	chmod 0600 "$record"
	: >"$now"
	remember "for $whose"
	make_account
	write_gate <<'END OF THE GATE'
{{GATE}}END OF THE GATE
	rights
	if [ "$(wc -l <"$now")" -lt "$(wc -l <"$record")" ]; then
		undo_the_rest
		# What was taken may have been a part of what is wanted.
		rights
	fi
	rm -f -- "$now"
else
	say "locking the appliance out"
	rm -f -- "$home/.ssh/authorized_keys" "$gate"
	end_processes
	: >"$now"
	undo_the_rest
	[ -n "$incomplete" ] || rm -rf -- "$folder"
fi
[ -z "$incomplete" ] || fail 'not all could be done' 'see the warnings above, and run this again'
say "done"
