# Puts the system on the first disk, and a boot loader in front of it.
fail() { say FAILED "$*"; poweroff -f; }
mount -t iso9660 -o ro /dev/sr0 /cd || fail no disc
if [ -d /sys/firmware/efi ]; then
	say installing by UEFI on $(cat /sys/block/sda/size) sectors
	printf 'label: gpt\nsize=32M, type=U\ntype=L\n' | /sbin/sfdisk -q /dev/sda || fail partitions
	root=/dev/sda2
else
	say installing by BIOS on $(cat /sys/block/sda/size) sectors
	printf 'label: dos\ntype=83, bootable\n' | /sbin/sfdisk -q /dev/sda || fail partitions
	root=/dev/sda1
fi
# EXTLINUX knows neither of these features.
/sbin/mke2fs -q -t ext4 -O ^64bit,^metadata_csum -L system $root || fail no file system
mount -t ext4 $root /target || fail cannot mount
cd /target
gunzip -c /cd/install/system.gz | cpio -id 2> /dev/null || fail cannot unpack
mkdir -p boot run mnt tmp
cp /cd/install/vmlinuz /cd/install/start.gz boot/ || fail cannot copy
echo "$root / ext4 defaults 0 1" > etc/fstab
if [ -d /sys/firmware/efi ]; then
	/sbin/mkfs.fat -n ESP /dev/sda1 > /dev/null && mount -t vfat /dev/sda1 /esp || fail no system partition
	mkdir -p /esp/EFI/BOOT /esp/EFI/debian
	cp /cd/install/grubx64.efi /esp/EFI/BOOT/BOOTX64.EFI
	cat > /esp/EFI/debian/grub.cfg <<- END
		search --set=root --label system
		linux /boot/vmlinuz root=$root console=ttyS0 quiet
		initrd /boot/start.gz
		boot
	END
	umount /esp
else
	mkdir -p boot/extlinux
	cat > boot/extlinux/extlinux.conf <<- END
		serial 0 115200
		default linux
		label linux
		  kernel /boot/vmlinuz
		  append initrd=/boot/start.gz root=$root console=ttyS0 quiet
	END
	/usr/bin/extlinux --install boot/extlinux > /dev/null 2>&1 || fail no boot loader
	dd if=/cd/install/mbr.bin of=/dev/sda bs=440 count=1 conv=notrunc 2> /dev/null
fi
cd /
umount /target || fail cannot unmount
sync
# The drive gives the disc back when it is let go.
echo 1 > /proc/sys/dev/cdrom/autoeject
umount /cd
say installed
reboot -f
