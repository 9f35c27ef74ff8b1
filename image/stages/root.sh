# Makes the root file system of an appliance.
#
#   root.sh WORK KIB UUID EPOCH BASELINE PATH MKE2FS…
#
# WORK      the folder with tree/; gets root.ext4
# KIB       kibibytes of the file system; UUID its identity
# EPOCH     the time of the youngest file, in seconds since 1970
# BASELINE  what the firmware partition holds, a file that the tree gets under PATH
# MKE2FS…   the program, as words
set -eu
work=$1 kib=$2 uuid=$3 epoch=$4 baseline=$5 path=$6
shift 6
tree=$work/tree

install -m 0600 "$baseline" "$tree$path"
# Two builds are the same when each file's time is; mke2fs itself goes by SOURCE_DATE_EPOCH.
find "$tree" -newermt "@$epoch" -exec touch -h -d "@$epoch" {} +
SOURCE_DATE_EPOCH=$epoch "$@" -q -t ext4 -b 4096 -m 1 -L root -U "$uuid" -E "hash_seed=$uuid,lazy_itable_init=1,nodiscard" \
	-d "$tree" "$work/root.ext4" "${kib}k"
