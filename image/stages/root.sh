# Makes the root file system of an appliance, and sets aside what the firmware partition is made of.
#
#   root.sh WORK KIB UUID ADMIN SEGMENT BASE ARCHIVE…
#
# WORK      a folder; gets root.ext4, packages (the manifest) and kernel/ (kernel, initramfs, device trees and boot programs,
#           and what tells which drivers the kernel has, all under their paths in the tree)
# KIB       kibibytes of the file system; UUID its identity
# ADMIN     the login to make
# SEGMENT   an initramfs segment to put behind every initramfs
# BASE      the base tree, a tar archive
# ARCHIVE…  what is laid over it, each over those before
set -eu
work=$1 kib=$2 uuid=$3 admin=$4 segment=$5 base=$6
shift 6
umask 022
tree=$work/tree
mkdir "$tree"

lay() {
	tar -xf "$1" -C "$tree" --exclude='./dev/*' --numeric-owner --xattrs --xattrs-include='*'
}

lay "$base"
# raspi-firmware's hook writes over what boots. Updates of the package go to the new name, too.
hook=/etc/kernel/postinst.d/z50-raspi-firmware
dpkg-divert --root "$tree" --quiet --local --rename --add --divert "$hook.distrib" "$hook"
for archive; do
	lay "$archive"
done

useradd --prefix "$tree" --uid 1000 --user-group --groups sudo,adm --create-home --shell /bin/bash "$admin"

# What systemd-resolved's installation kept of the build host's name servers.
rm -f "$tree/etc/.resolv.conf.systemd-resolved.bak"

for initrd in "$tree"/boot/initrd.img-*; do
	# A segment begins at a multiple of four bytes.
	truncate -s %4 "$initrd"
	cat "$segment" >>"$initrd"
done
mv "$tree/usr/share/vaultberry-packages" "$work/packages"

mkdir "$work/kernel"
(
	cd "$tree"
	cp -r --parents boot/vmlinuz-* boot/initrd.img-* usr/lib/modules/*/modules.* usr/lib/linux-image-*/broadcom/bcm*.dtb \
		usr/lib/raspi-firmware usr/lib/u-boot/rpi_arm64/u-boot.bin "$work/kernel"
)

mke2fs -q -t ext4 -b 4096 -m 1 -L root -U "$uuid" -E "hash_seed=$uuid,lazy_itable_init=1,nodiscard" \
	-d "$tree" "$work/root.ext4" "${kib}k"
