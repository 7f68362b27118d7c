#!/bin/busybox sh
# In the initramfs: mounts this host's files below a layer of memory, and goes on there.
set -e
busybox=/bin/busybox
$busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do
  insmod "/modules/$module"
done </modules/order

nine="trans=virtio,version=9p2000.L,msize=512000"
mount -t 9p -o "ro,cache=loose,$nine" host /host
mount -t tmpfs -o size=75% layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /root
# What runs on the host is none of the guest's business.
mount -t tmpfs run /root/run
# A layer cannot lie upon a layer: containers' do on this.
mkdir -p /root/var/lib/capsule-testbed /root/lib/modules /root/run/guest
mount -t tmpfs state /root/var/lib/capsule-testbed
mount -t 9p -o "ro,cache=loose,$nine" modules /root/lib/modules
mount -t 9p -o "$nine" guest /root/run/guest
for tree in proc sys dev; do
  mount --move /$tree /root/$tree
done
exec switch_root /root /bin/sh /run/guest/start
