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
umask 022

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
	command -v "$1" >/dev/null || fail "there is no $1 on this server" "install it, as in: apt-get install $2"
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
	pass) no_pass "$2" ;;
	role) drop_role ;;
	postgresql) leave_database "$2" ;;
	row-security) say "NOBYPASSRLS for $user" && printf 'ALTER ROLE :"user" NOBYPASSRLS;\n' | superuser postgres ;;
	mariadb-user) drop_mariadb_user ;;
	mariadb) revoke "$2" ;;
	esac
}

# undo_the_rest: undoes, the latest first, what was done once and isn't wanted now.
undo_the_rest() {
	sed '1!G;h;$!d' "$record" >"$record.back"
	while IFS= read -r line <&3; do
		grep -Fxq -e "$line" "$now" || undo "${line%% *}" "${line#* }"
	done 3<"$record.back"
	rm -f -- "$record.back"
}

# --- The account ---

make_account() {
	own account "$(getent passwd "$user")" "an account $user"
	if ! getent passwd "$user" >/dev/null; then
		say "making the account $user, without a password; its home $home is root's"
		useradd --system --no-create-home --home-dir "$home" --shell /bin/sh --password '*' "$user"
	fi
	mkdir -p "$home/.ssh"
	chown root:root "$home" "$home/.ssh"
	chmod 0755 "$home" "$home/.ssh"
}

write_gate() {
	say "writing the gate $gate"
	cat >"$gate.part"
	chmod 0755 "$gate.part"
	mv -f "$gate.part" "$gate"
	say "binding the appliance's key to it in $home/.ssh/authorized_keys"
	printf 'restrict,command="%s" %s\n' "$gate" "$key" >"$home/.ssh/authorized_keys.part"
	chmod 0644 "$home/.ssh/authorized_keys.part"
	mv -f "$home/.ssh/authorized_keys.part" "$home/.ssh/authorized_keys"
}

remove_account() {
	say "removing the account $user, $home and $folder"
	userdel "$user"
	rm -rf -- "$home"
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
user=$1
shift
setfacl -P -n -x "u:$user,d:u:$user" -- "$@"
[ -n "$(getfacl -cpPs -- "$@")" ] || exit 0
for file do
	getfacl -cpP -- "$file" | grep -Eq "^(default:)?(user|group):[^:]|#effective:" || setfacl -P -b -- "$file"
done'

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

no_pass() {
	[ -d "$1" ] || return 0
	say "letting $user through $1 no more"
	sh -c "$forbid" sh "$user" "$1"
}

# readable PATH: lets the account read it and what is below. New files in a folder that others may not read inherit it; a folder
# that others may read is left alone, because such inheriting takes the place of each program's umask.
readable() {
	real=$(readlink -f -- "$1" || true)
	if [ ! -e "$real" ]; then
		trouble "there is no $1"
		return
	fi
	say "letting $user read $1$([ "$real" = "$1" ] || printf ', which is %s' "$real")"
	remember "path $real"
	pass "$(dirname -- "$1")"
	pass "$(dirname -- "$real")"
	# Programs refuse keys that others than their owner could read.
	find "$real" \( -name .ssh -o -name .gnupg -o -name 'ssh_host_*_key' -o -name '*.key' -o -name '.pgpass' \) -prune -o \
		-type d ! -perm -005 -execdir sh -c "$allow" sh "$user" r "u:$user:rX,d:u:$user:rX" {} + -o \
		-type f ! -perm -004 -execdir sh -c "$allow" sh "$user" r "u:$user:rX" {} + ||
		trouble "not all of $1 could be made readable for $user"
}

# sqlite PATH: what SQLite keeps beside a database comes and goes, and has to inherit.
sqlite() {
	for file in "$1" "$1-wal" "$1-shm"; do
		if [ "$file" = "$1" ] || [ -e "$file" ]; then readable "$file"; fi
	done
	above=$(dirname -- "$(readlink -f -- "$1")")
	if [ -n "$(find "$above" -maxdepth 0 ! -perm -005)" ]; then
		say "letting $user read what is made in $above from now on"
		remember "pass $above"
		sh -c "$allow" sh "$user" x "d:u:$user:r" "$above" || trouble "couldn't do that"
	fi
}

unreadable() {
	[ -e "$1" ] || return 0
	say "taking $user's rights on $1"
	find "$1" \( -type d -o -type f \) -execdir sh -c "$forbid" sh "$user" {} +
}

# --- PostgreSQL ---

# superuser DATABASE: has PostgreSQL's superuser run what stdin says.
superuser() {
	(cd / && runuser -u postgres -- psql -XAtq --no-password -v ON_ERROR_STOP=1 -v user="$user" -d "$1")
}

role() {
	version=$(printf 'SHOW server_version_num;\n' | superuser postgres)
	[ "$version" -ge 140000 ] || fail "PostgreSQL here is older than 14, which has no pg_read_all_data" \
		'take `postgresql` out of this source, and have a source without a gate for it, with rights that you grant by hand'
	found=$(printf "SELECT 1 FROM pg_roles WHERE rolname = :'user';\n" | superuser postgres)
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
	printf "SELECT format('GRANT CONNECT ON DATABASE %%I TO %%I', current_database(), :'user') \\\\gexec\n" | superuser "$1"
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
	while IFS= read -r name <&4; do database "$name"; done 4<"$now.list"
	rm -f -- "$now.list"
}

# there NAME: is there such a database?
there() {
	[ -n "$(printf "SELECT 1 FROM pg_database WHERE datname = :'name';\n" |
		(cd / && runuser -u postgres -- psql -XAtq --no-password -v name="$1" -d postgres))" ]
}

leave_database() {
	there "$1" || return 0
	say "taking $user's rights on PostgreSQL's database $1"
	printf 'DROP OWNED BY :"user";\n' | superuser "$1"
}

drop_role() {
	say "dropping PostgreSQL's role $user"
	printf 'DROP OWNED BY :"user"; DROP ROLE :"user";\n' | superuser postgres
}

# --- MariaDB and MySQL ---

# client OPTION…: MariaDB's client, as the server's root
client() {
	if command -v mariadb >/dev/null; then mariadb "$@"; else mysql "$@"; fi
}

mariadb_user() {
	version=$(client -N -B -e 'SELECT VERSION()')
	plugin=auth_socket
	case $version in *MariaDB*) plugin=unix_socket ;; esac
	found=$(client -N -B -e "SELECT 1 FROM mysql.user WHERE User = '$user' AND Host = 'localhost'")
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
			client -e "GRANT SELECT ON mysql.proc TO '$user'@'localhost'"
		fi
		;;
	*) client -e "GRANT SHOW_ROUTINE ON *.* TO '$user'@'localhost'" ;;
	esac
}

revoke() {
	say "taking $user's rights on $1 of MariaDB"
	client -e "REVOKE ALL PRIVILEGES ON $1 FROM '$user'@'localhost'"
}

drop_mariadb_user() {
	say "dropping MariaDB's user $user"
	client -e "DROP USER '$user'@'localhost'"
}

# --- What is wanted ---

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
fi
if [ -e "$record" ] && ! did "for $whose"; then
	fail "the account $user is for another: $(sed -n 's/^for //p' "$record")" \
		"write another \`user\` into the source's section, or remove that one first"
fi
{{NEEDS}}mkdir -p "$folder"
touch "$record"
chmod 0600 "$record"
: >"$now"
if [ "${1-}" != --remove ]; then
	remember "for $whose"
	make_account
	write_gate <<'END OF THE GATE'
{{GATE}}END OF THE GATE
	rights
	if [ "$(wc -l <"$now")" -lt "$(wc -l <"$record")" ]; then
		undo_the_rest
		cp "$now" "$record"
		# What was taken may have been a part of what is wanted.
		rights
	fi
	rm -f -- "$now"
else
	undo_the_rest
	rm -rf -- "$folder"
fi
[ -z "$incomplete" ] || fail 'not all could be done' 'see the warnings above'
say "done"
