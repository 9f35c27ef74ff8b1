# Makes the tree of an appliance's root, and sets aside what the firmware partition is made of.
#
#   tree.sh WORK ADMIN WHOM EPOCH SEGMENT BASE ARCHIVE…
#
# WORK      a folder; gets tree/, packages (the manifest), sshd (what sshd makes of its settings) and kernel/ (kernel,
#           initramfs, device trees and boot programs, and what tells which drivers the kernel has, all under their paths in
#           the tree)
# ADMIN     the login to make; WHOM is how sshd is asked about it
# EPOCH     the time that accounts are made at, in seconds since 1970
# SEGMENT   an initramfs segment to put behind every initramfs
# BASE      the base tree, a tar archive
# ARCHIVE…  what is laid over it, each over those before
set -eu
work=$1 admin=$2 whom=$3 segment=$5 base=$6
export SOURCE_DATE_EPOCH="$4"
shift 6
umask 022
tree=$work/tree
mkdir "$tree"

lay() {
	tar -xf "$1" -C "$tree" --exclude='./dev/*' --numeric-owner --xattrs --xattrs-include='*'
}

lay "$base"
mkdir -p "$tree/dev"
# raspi-firmware's hook writes over what boots. Updates of the package go to the new name, too.
hook=/etc/kernel/postinst.d/z50-raspi-firmware
dpkg-divert --root "$tree" --quiet --local --rename --add --divert "$hook.distrib" "$hook"
for archive; do
	lay "$archive"
done

# What boots is changed by `vaultberry update` alone, when somebody is there who could put the old card right.
printf '%s hold\n' linux-image-arm64 raspi-firmware u-boot-rpi firmware-brcm80211 | chroot "$tree" dpkg --set-selections

chroot "$tree" systemd-sysusers /usr/lib/sysusers.d/vaultberry.conf
# The appliance's own: this machine's would give him a home and numbers as they are here.
chroot "$tree" useradd --uid 1000 --user-group --groups sudo,adm --create-home --shell /bin/bash "$admin"

# sshd itself says what it goes by. It wants a host's key, which an image has none of: it gets one in a copy of its folder, in
# memory, which is gone before the file system is made.
unshare --mount sh -eu -c '
	mount --rbind /dev "$1/dev"
	mount -t tmpfs tmpfs "$1/run"
	mkdir "$1/run/sshd"
	cp -a "$1/etc/ssh" "$1/run/ssh"
	mount --bind "$1/run/ssh" "$1/etc/ssh"
	chroot "$1" /usr/bin/env -i PATH=/usr/sbin:/usr/bin sh -eu -c "
		ssh-keygen -q -t ed25519 -N \"\" -f /etc/ssh/ssh_host_ed25519_key
		sshd -t
		sshd -T -C \"\$1\"" sh "$2"' sh "$tree" "$whom" >"$work/sshd"

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
		usr/lib/raspi-firmware usr/lib/u-boot/rpi_arm64/u-boot.bin usr/share/vaultberry/board "$work/kernel"
	if [ -e etc/default/raspi-extra-cmdline ]; then
		cp --parents etc/default/raspi-extra-cmdline "$work/kernel"
	fi
)
