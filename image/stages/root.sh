# Makes the root file system of an appliance.
#
#   root.sh WORK KIB UUID BASELINE PATH
#
# WORK      the folder with tree/; gets root.ext4
# KIB       kibibytes of the file system; UUID its identity
# BASELINE  what the firmware partition holds, a file that the tree gets under PATH
set -eu
work=$1 kib=$2 uuid=$3 baseline=$4 path=$5
tree=$work/tree

install -m 0600 "$baseline" "$tree$path"
mke2fs -q -t ext4 -b 4096 -m 1 -L root -U "$uuid" -E "hash_seed=$uuid,lazy_itable_init=1,nodiscard" \
	-d "$tree" "$work/root.ext4" "${kib}k"
