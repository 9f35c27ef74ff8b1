#!/bin/sh
# The gate of {{USER}}: what the key of the backup appliance {{HOST}} may ask of this server, for its source {{NAME}}. What
# `vaultberry source setup` prints has written it. sshd runs it in place of whatever was asked for.
set -fu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
unset IFS
umask 077

# refuse WHY: says it to the client and to the server's log, and ends.
refuse() {
	shown=$(printf '%s' "$1" | tr -c ' -~' '?' | cut -c 1-300)
	printf 'vaultberry gate: refused: %s\n' "$shown" >&2
	if command -v logger >/dev/null; then
		logger -t vaultberry-gate -p auth.warning -- "{{USER}}: refused: $shown" 2>/dev/null
	fi
	exit 126
}

# run LINE [NAME]: becomes a shell for a line of this file; a name is "$1" in it.
run() {
	line=$1
	shift
	exec sh -c "$line" gate "$@" </dev/null
}

# named NAME LIST LINE: runs the line for a database, if the server has one of just this name. pg_dump takes some names for more.
named() {
	case $1 in
	'' | [-.]* | *[/=\\]*) refuse "no name of a database: $1" ;;
	esac
	sh -c "$2" </dev/null | grep -Fxq -e "$1" || refuse "no such database: $1"
	run "$3" "$1"
}

# send FLAGS OPTION… . ITEM: becomes an rsync that sends one of the paths, and does nothing else.
send() {
	all="rsync $*"
	[ $# -ge 3 ] || refuse "$all"
	# Behind an e come the client's abilities, which are letters and a dot.
	letters=${1%%e.*}
	case $1 in *e.*[!A-Za-z]*) refuse "$all" ;; esac
	# Links are followed only to the path itself, never below it: L never goes with r.
	case $letters in
	-*[!nlLHogDtpAXrxSzd]*) refuse "$all" ;;
	-*r*L* | -*L*r* | -*r*d* | -*d*r*) refuse "$all" ;;
	-*r*) kind=folder ;;
	-*d*) kind=list ;;
	-?*) kind=file ;;
	*) refuse "$all" ;;
	esac
	flags=$1
	shift
	options=
	while [ $# -gt 2 ]; do
		case $1 in
		--timeout=*[!0-9]* | --bwlimit=*[!0-9]*) refuse "$all" ;;
		--timeout=?* | --bwlimit=?*) ;;
		--numeric-ids | --list-only) ;;
		*) refuse "$all" ;;
		esac
		options="$options $1"
		shift
	done
	[ "$1" = . ] || refuse "$all"
	case "$kind $options " in
	'list '*' --list-only '* | file\ * | folder\ *) ;;
	*) refuse "$all" ;;
	esac
	case "$kind $2" in
{{ITEMS}}	*" {{MARK}}/"*) refuse "$all" ;;
	*" "????????????????/*) refuse "this gate is of another configuration: $all" ;;
	*) refuse "$all" ;;
	esac
	# shellcheck disable=SC2086 # Each is one of those above.
	exec rsync --server --sender "$flags" $options . "$path"
}

asked=${SSH_ORIGINAL_COMMAND-}
case $asked in
'') refuse 'a shell' ;;
*'
'*) refuse "$asked" ;;
{{REQUESTS}}'vaultberry {{MARK}} '*) refuse "$asked" ;;
'vaultberry '*) refuse "this gate is of another configuration: $asked" ;;
'rsync --server --sender '*)
	# shellcheck disable=SC2086 # Words are what it is split into; set -f keeps them as they are.
	send ${asked#rsync --server --sender }
	;;
*) refuse "$asked" ;;
esac
