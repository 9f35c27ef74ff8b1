#!/bin/sh
# A Ceph cluster on loopback: one monitor, one store in memory, and the object gateway. Ends with unshare.
#
#   unshare --map-root-user --mount --pid --fork --kill-child sh ceph.sh TREE FOLDER PORT MONITOR
#
# TREE is what `tools/setup` unpacked. The gateway speaks S3 at PORT, the monitor listens at MONITOR.
set -eu

if [ "$1" != inside ]; then
	tree=$1 folder=$2
	shift 2
	cp "$0" "$folder/ceph.sh"
	mount --rbind /dev "$tree/dev"
	mount --rbind /proc "$tree/proc"
	mount --bind "$folder" "$tree/home"
	exec chroot "$tree" /bin/sh /home/ceph.sh inside "$@"
fi
port=$2 monitor=$3
cd /home
export CEPH_CONF=/home/ceph.conf
cluster=c2b5a5a4-6c58-4d0c-9b1e-3f1c5d1c7a01
store=c2b5a5a4-6c58-4d0c-9b1e-3f1c5d1c7a02
# Nothing here is worth a login; without it connections can't be encrypted, which they would be.
cat >ceph.conf <<END
[global]
fsid = $cluster
mon host = v2:127.0.0.1:$monitor
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
log to file = false
log to stderr = true
run dir = /home
admin socket = /home/\$name.\$pid.asok
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data = /home/mon
mon data avail crit = 1
osd data = /home/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd class dir = /usr/lib/x86_64-linux-gnu/rados-classes
rgw data = /home/rgw
rgw frontends = beast endpoint=127.0.0.1:$port
END
mkdir mon osd rgw
monmaptool --create --fsid "$cluster" --addv a "[v2:127.0.0.1:$monitor]" monmap
ceph-mon -i a --mkfs --monmap monmap
ceph-mon -i a -f &
ceph osd new "$store"
ceph-osd -i 0 --mkfs --osd-uuid "$store"
ceph-osd -i 0 -f &
radosgw-admin user create --uid=owner --display-name=owner --access-key=owner --secret-key=owner-of-all
radosgw-admin user create --uid=vaultberry --display-name=vaultberry --max-buckets=-1 --access-key=test --secret-key=hunter2hunter2
radosgw -f -n client.admin &
wait
