# Makes an archive of the builder's own tools.
#
#   tools.sh ARCHIVE WORK FOLDER OUT
#
# ARCHIVE  packages, as files in FOLDER
# WORK     a folder to make
# OUT      the archive to write
set -eu
archive=$1 work=$2 folder=$3 out=$4
umask 022
mkdir -p "$work/tree"

tar -xf "$archive" -C "$work" --no-same-owner
for package in "$work/$folder"/*.deb; do
	# Manuals and messages are for people.
	dpkg-deb --fsys-tarfile "$package" |
		tar -x -C "$work/tree" --no-same-owner --exclude='./usr/share/*'
done
tar -C "$work/tree" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$out" .
rm -r "$work"
