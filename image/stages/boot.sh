# Makes the initramfs of an appliance, in a chroot of its own.
#
#   boot.sh WORK BASE OVERLAY EPOCH OUT
#
# WORK     a folder for the tree
# BASE     the base tree, a tar archive
# OVERLAY  what goes over it: hook, boot script, vaultberry-unlock
# EPOCH    the time of the youngest file, in seconds since 1970
# OUT      the archive to write: the tree's boot/
set -eu
work=$1 base=$2 overlay=$3 epoch=$4 out=$5
umask 022
tree=$work/tree
mkdir "$tree"

# Device nodes can't be made by an ordinary user; the host's own serve the chroot.
tar -xf "$base" -C "$tree" --exclude='./dev/*' --numeric-owner
tar -xf "$overlay" -C "$tree" --numeric-owner
mkdir -p "$tree/dev"
mount --rbind /dev "$tree/dev"
mount -t proc proc "$tree/proc"

chroot "$tree" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 SOURCE_DATE_EPOCH="$epoch" \
	update-initramfs -c -k all
chmod 0644 "$tree"/boot/initrd.img-*
tar -C "$tree" --sort=name --numeric-owner --clamp-mtime --mtime="@$epoch" -cf "$out" ./boot
