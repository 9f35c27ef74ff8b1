#!/bin/sh
# Makes what vaultberry-unlock is measured against: the kernel of Debian 13 for arm64, with the initramfs that Debian's own
# cryptsetup-initramfs makes by its defaults, and passdev in it, which reads a key from a stick. The crypttab is put behind it
# for each guest.
#
#   benches/debian-unlock.sh OUT    OUT gets vmlinuz and initrd.img
set -eu
out=$1
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Without a crypttab that needs them, the hook leaves program and keyscript out.
hook='printf "#!/bin/sh\n[ \"\${1:-}\" != prereqs ] || exit 0\n. /usr/share/initramfs-tools/hook-functions\ncopy_exec /usr/lib/cryptsetup/scripts/passdev\nmanual_add_modules vfat nls_cp437 nls_ascii\n" >"$1/etc/initramfs-tools/hooks/passdev" && chmod +x "$1/etc/initramfs-tools/hooks/passdev"'
INITRD=No mmdebstrap --quiet --format=null --variant=minbase --architectures=arm64 --dpkgopt=force-unsafe-io \
	--dpkgopt=force-confold --include=linux-image-arm64,initramfs-tools,cryptsetup-initramfs,busybox,zstd,udev \
	--setup-hook='mkdir -p "$1/etc/initramfs-tools" && echo update_initramfs=no >"$1/etc/initramfs-tools/update-initramfs.conf"' \
	--customize-hook='echo CRYPTSETUP=y >>"$1/etc/cryptsetup-initramfs/conf-hook"' \
	--customize-hook="$hook" \
	--customize-hook='chroot "$1" update-initramfs -c -k all' \
	--customize-hook="tar-out /boot $work/boot.tar" \
	trixie /dev/null
tar -xf "$work/boot.tar" -C "$work"
for name in vmlinuz initrd.img; do
	found=$(find "$work" -name "$name-*")
	cp -- "$found" "$out/$name"
done
