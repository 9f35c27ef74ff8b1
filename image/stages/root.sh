# Makes the root file system of an appliance and sets its firmware files aside.
#
#   root.sh WORK KIB UUID ADMIN SEGMENT ARCHIVE…
#
# WORK      a folder; gets root.ext4, firmware/ (the firmware partition's files), packages (the manifest) and kernel/ (what
#           tells which drivers the kernel has)
# KIB       kibibytes of the file system; UUID its identity
# ADMIN     the login to make
# SEGMENT   an initramfs segment to put behind every initramfs
# ARCHIVE…  what makes up the tree, each laid over those before
set -eu
work=$1 kib=$2 uuid=$3 admin=$4 segment=$5
shift 5
umask 022
tree=$work/tree
mkdir "$tree"

for archive; do
	tar -xf "$archive" -C "$tree" --exclude='./dev/*' --numeric-owner --xattrs --xattrs-include='*'
done

useradd --prefix "$tree" --uid 1000 --user-group --groups sudo,adm --create-home --shell /bin/bash "$admin"

# What systemd-resolved's installation kept of the build host's name servers.
rm -f "$tree/etc/.resolv.conf.systemd-resolved.bak"

for initrd in "$tree"/boot/initrd.img-* "$tree"/boot/firmware/initrd.img-*; do
	# A segment begins at a multiple of four bytes.
	truncate -s %4 "$initrd"
	cat "$segment" >>"$initrd"
done
mv "$tree/boot/firmware" "$work/firmware"
mkdir "$tree/boot/firmware"
mv "$tree/usr/share/vaultberry-packages" "$work/packages"

for kernel in "$tree"/boot/vmlinuz-*; do
	mkdir -p "$work/kernel/boot" "$work/kernel/usr/lib/modules/${kernel##*/vmlinuz-}"
	cp "$kernel" "$work/kernel/boot/"
	cp "$tree/usr/lib/modules/${kernel##*/vmlinuz-}"/modules.* "$work/kernel/usr/lib/modules/${kernel##*/vmlinuz-}/"
done

mke2fs -q -t ext4 -b 4096 -m 1 -L root -U "$uuid" -E "hash_seed=$uuid,lazy_itable_init=1,nodiscard" \
	-d "$tree" "$work/root.ext4" "${kib}k"
