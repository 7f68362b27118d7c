#!/bin/busybox sh
# Makes a guest usable, does what a test wants and gives it a shell.
busybox=/bin/busybox
$busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do
  insmod "/modules/$module"
done </modules/order
. /script
setsid cttyhack sh
poweroff -f
