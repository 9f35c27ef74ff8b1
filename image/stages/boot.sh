# Makes the initramfs and the firmware files of an appliance, in a chroot of its own.
#
#   boot.sh WORK BASE OVERLAY OUT
#
# WORK     a folder for the tree
# BASE     the base tree, a tar archive
# OVERLAY  what goes over it: hook, boot script, vaultberry-unlock, settings of raspi-firmware
# OUT      the archive to write: the tree's boot/, with boot/firmware/ in it
set -eu
work=$1 base=$2 overlay=$3 out=$4
umask 022
tree=$work/tree
mkdir "$tree"

# Device nodes can't be made by an ordinary user; the host's own serve the chroot.
tar -xf "$base" -C "$tree" --exclude='./dev/*' --numeric-owner
tar -xf "$overlay" -C "$tree" --numeric-owner
mount --rbind /dev "$tree/dev"
mount -t proc proc "$tree/proc"

# One run for everything: its hooks end with raspi-firmware's, which fills boot/firmware.
chroot "$tree" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 update-initramfs -c -k all
chmod 0644 "$tree"/boot/initrd.img-* "$tree"/boot/firmware/initrd.img-*
tar -C "$tree" --sort=name --numeric-owner -cf "$out" ./boot
