# Finds the root file system and hands over to the system on it.
root=$(sed 's/.*root=\([^ ]*\).*/\1/' /proc/cmdline)
mount -t ext4 $root /target || { say FAILED no root; poweroff -f; }
mount -o move /dev /target/dev
exec switch_root /target /sbin/init
