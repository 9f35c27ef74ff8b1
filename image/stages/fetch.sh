# Downloads Debian packages with all that they need, and says what they are: a hook of mmdebstrap, in a tree that holds nothing
# but apt's settings and lists, and perhaps a list of what is installed already.
#
#   fetch.sh TREE
#
# TREE       the tree; gets vaultberry-packages/ with the packages, index (what the mirror says of each), and sources.tar, which
#            says where they come from
# $packages  those that are wanted, in the environment: names, or patterns as apt-patterns(7) has them
set -euf
tree=$1
fetched=$tree/vaultberry-packages
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"

mkdir "$fetched"
# shellcheck disable=SC2086  # a list of words
apt-get --yes --quiet=2 --download-only -o Acquire::Retries=3 --no-remove install $packages >&2
find "$tree/var/cache/apt/archives" -maxdepth 1 -name '*.deb' -exec mv -t "$fetched" {} +

# NAME_VERSION_ARCHITECTURE.deb, with %3a for a colon.
find "$fetched" -name '*.deb' -printf '%f\n' | sort |
	sed 's/^\([^_]*\)_\([^_]*\)_.*/\1=\2/; s/%3a/:/g' |
	xargs --no-run-if-empty apt-cache show --no-all-versions >"$fetched/index"
cd "$tree/etc/apt"
# shellcheck disable=SC2046  # a list of words
tar -cf "$fetched/sources.tar" $(ls -d sources.list sources.list.d 2>/dev/null)
