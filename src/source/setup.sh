#!/bin/sh
# Lets the backup appliance read from this server, as its source @NAME@: an account, its key bound to a gate, and the rights
# that it needs. Read it, then run it as root:
#
#   sh setup.sh              sets up, or brings up to date; it can be run again
#   sh setup.sh --remove     takes away what it set up
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
umask 022

user=@USER@
key='@KEY@'
folder=/usr/local/lib/vaultberry
gate=$folder/gate-$user
record=$folder/setup-$user

say() {
	printf '%s\n' "$*"
}

fail() {
	printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
	exit 1
}

# need PROGRAM PACKAGE
need() {
	command -v "$1" >/dev/null || fail "there is no $1 on this server" "apt-get install $2"
}

# remember WHAT: writes down, once, what --remove has to undo.
remember() {
	grep -Fxq -e "$1" "$record" 2>/dev/null || printf '%s\n' "$1" >>"$record"
}

# did WHAT: was it this script?
did() {
	grep -Fxq -e "$1" "$record" 2>/dev/null
}

# readable PATH: lets the account read it and what is below, now and later. sshd refuses private keys that anybody else may read.
readable() {
	[ -e "$1" ] || fail "there is no $1" "correct \`paths\` in the configuration"
	above=$(dirname -- "$1")
	until [ "$above" = / ]; do
		if ! runuser -u "$user" -- test -x "$above"; then
			say "letting $user pass through $above"
			remember " through $above"
			setfacl -m "u:$user:--x" -- "$above"
		fi
		above=$(dirname -- "$above")
	done
	say "letting $user read $1, but for .ssh folders and ssh_host_*_key"
	remember "$1"
	find -H "$1" \( -name .ssh -o -name 'ssh_host_*_key' \) -prune -o \( -type d -o -type f \) \
		-exec setfacl -m "u:$user:rX" -- {} +
	find -H "$1" -name .ssh -prune -o -type d -exec setfacl -d -m "u:$user:rX" -- {} +
}

# superuser DATABASE: has PostgreSQL's superuser run what stdin says.
superuser() {
	(cd / && runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -v user="$user" -d "$1")
}

# role: makes the role of PostgreSQL. Row security would leave rows out, or end the dump.
role() {
	version=$(printf 'SHOW server_version_num;\n' | superuser postgres)
	[ "$version" -ge 140000 ] || fail "PostgreSQL here is older than 14, which has no pg_read_all_data" \
		'grant the account what pg_dump needs by hand, and take `postgresql` out of this setup'
	if [ -z "$(printf "SELECT 1 FROM pg_roles WHERE rolname = :'user';\n" | superuser postgres)" ]; then
		say "making PostgreSQL's role $user, which may read all data and passes row security"
		remember ' postgresql'
		printf 'CREATE ROLE :"user" LOGIN;\n' | superuser postgres
	fi
	printf 'ALTER ROLE :"user" BYPASSRLS; GRANT pg_read_all_data TO :"user";\n' | superuser postgres
}

# large DATABASE: pg_read_all_data doesn't cover large objects.
large() {
	say "letting $user connect to PostgreSQL's database $1 and read its large objects; run this again for those that are made later"
	superuser "$1" <<'END'
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'user') \gexec
SELECT format('GRANT SELECT ON LARGE OBJECT %s TO %I', oid, :'user') FROM pg_largeobject_metadata \gexec
END
}

# every_large: the same for all databases but the templates.
every_large() {
	printf 'SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate;\n' | superuser postgres |
		while IFS= read -r database; do large "$database" </dev/null; done
}

# grant ON: lets the account dump tables of MariaDB or MySQL.
grant() {
	say "letting $user dump $1 of MariaDB"
	printf 'GRANT SELECT, LOCK TABLES, SHOW VIEW, TRIGGER, EVENT ON %s TO "%s"@localhost;\n' "$1" "$user" | $mariadb
}

# mariadb_user: makes the user of MariaDB or MySQL, who gets in by the socket, and lets it read routines.
mariadb_user() {
	mariadb=$(command -v mariadb || command -v mysql) || fail 'there is no mariadb on this server' 'apt-get install mariadb-client'
	version=$(printf 'SELECT VERSION();\n' | $mariadb -N -B)
	plugin=unix_socket
	case $version in *MariaDB*) ;; *) plugin=auth_socket ;; esac
	if [ -z "$(printf 'SELECT 1 FROM mysql.user WHERE User = "%s" AND Host = "localhost";\n' "$user" | $mariadb -N -B)" ]; then
		say "making MariaDB's user $user, who gets in as the account of that name only"
		remember ' mariadb'
		printf 'CREATE USER "%s"@localhost IDENTIFIED WITH %s;\n' "$user" "$plugin" | $mariadb
	fi
	say "letting $user read MariaDB's routines"
	case $version in
	*MariaDB*) printf 'GRANT SELECT ON mysql.proc TO "%s"@localhost;\n' "$user" | $mariadb ;;
	*) printf 'GRANT SHOW_ROUTINE ON *.* TO "%s"@localhost;\n' "$user" | $mariadb ;;
	esac
}

remove() {
	[ -e "$record" ] || fail "nothing was set up for $user" 'is it another account that is meant?'
	home=$(getent passwd "$user" | cut -d : -f 6)
	if [ -n "$home" ] && [ -e "$home/.ssh/authorized_keys" ]; then
		say "taking the key out of $home/.ssh/authorized_keys"
		grep -Fv -e "command=\"$gate\"" "$home/.ssh/authorized_keys" >"$record.keys" || true
		cat "$record.keys" >"$home/.ssh/authorized_keys"
		rm -f "$record.keys"
	fi
	while IFS= read -r path; do
		case $path in
		' through '*) setfacl -x "u:$user" -- "${path# through }" 2>/dev/null || true ;;
		/*)
			if [ -e "$path" ]; then
				say "taking $user's rights on $path"
				find -H "$path" \( -type d -o -type f \) -exec setfacl -x "u:$user" -- {} +
				find -H "$path" -type d -exec setfacl -d -x "u:$user" -- {} +
			fi
			;;
		esac
	done <"$record"
	if did ' postgresql'; then
		say "dropping PostgreSQL's role $user"
		printf 'SELECT datname FROM pg_database WHERE datallowconn;\n' | superuser postgres |
			while IFS= read -r database; do printf 'DROP OWNED BY :"user";\n' | superuser "$database"; done
		printf 'DROP ROLE :"user";\n' | superuser postgres
	fi
	if did ' mariadb'; then
		say "dropping MariaDB's user $user"
		mariadb=$(command -v mariadb || command -v mysql)
		printf 'DROP USER "%s"@localhost;\n' "$user" | $mariadb
	fi
	if did ' account'; then
		say "removing the account $user and $home"
		userdel "$user"
		rm -rf -- "/var/lib/vaultberry-$user"
	fi
	say "removing $gate"
	rm -f -- "$gate" "$record"
}

[ "$(id -u)" = 0 ] || fail 'this needs root' "sudo sh $0"
case ${1-} in
'') ;;
--remove)
	remove
	exit 0
	;;
*) fail "unknown argument $1" 'there is none but --remove' ;;
esac

@NEEDS@mkdir -p "$folder"
touch "$record"
chmod 0600 "$record"
if ! getent passwd "$user" >/dev/null; then
	say "making the account $user, which has no password"
	remember ' account'
	useradd --system --home-dir "/var/lib/vaultberry-$user" --shell /bin/sh --password '*' "$user"
	mkdir -p "/var/lib/vaultberry-$user"
fi
home=$(getent passwd "$user" | cut -d : -f 6)

say "writing the gate $gate"
cat >"$gate.part" <<'END OF THE GATE'
@GATE@END OF THE GATE
chmod 0755 "$gate.part"
mv -f "$gate.part" "$gate"

say "binding the appliance's key to it in $home/.ssh/authorized_keys"
mkdir -p "$home/.ssh"
chown root:root "$home/.ssh"
chmod 0755 "$home/.ssh"
{
	grep -Fv -e "command=\"$gate\"" "$home/.ssh/authorized_keys" 2>/dev/null || true
	printf 'restrict,command="%s" %s\n' "$gate" "$key"
} >"$home/.ssh/authorized_keys.part"
chmod 0644 "$home/.ssh/authorized_keys.part"
mv -f "$home/.ssh/authorized_keys.part" "$home/.ssh/authorized_keys"

@RIGHTS@say "done: \`vaultberry backup run --dry-run\` on the appliance shows whether all is right"
