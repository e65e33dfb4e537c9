//! Disks that boot: boot sectors for a BIOS, and an EFI system partition with a program for UEFI.

/// Where a BIOS loads a boot sector.
const ORIGIN: u16 = 0x7c00;
/// Offsets in the sector: text, the packet of a disk read, the routine that prints.
const TEXT: usize = 0x100;
const PACKET: usize = 0x1c0;
const PRINT: usize = 0x1e0;
/// Where `read` puts a sector.
const LOADED: u16 = 0x8000;

/// A boot sector under construction: 16-bit code, entered by the BIOS with the drive's number in DL.
pub(crate) struct BootSector {
    code: Vec<u8>,
    text: Vec<u8>,
    packet: [u8; 16],
}

impl BootSector {
    pub(crate) fn new() -> Self {
        // xor ax, ax; mov ds, ax; mov es, ax
        BootSector { code: vec![0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0], text: Vec::new(), packet: [0; 16] }
    }

    /// Any code.
    pub(crate) fn code(mut self, code: &[u8]) -> Self {
        self.code.extend(code);
        self
    }

    /// Prints `text` through the BIOS.
    pub(crate) fn print(mut self, text: &str) -> Self {
        let at = ORIGIN + (TEXT + self.text.len()) as u16;
        self.text.extend(text.bytes());
        self.text.push(0);
        self.print_at(at)
    }

    /// Reads sector 1 of the boot drive through the BIOS and prints the text there.
    pub(crate) fn print_sector_1(mut self) -> Self {
        self.packet = [16, 0, 1, 0, 0, (LOADED >> 8) as u8, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        let [a, b] = (ORIGIN + PACKET as u16).to_le_bytes();
        // mov ah, 42h; mov si, packet; int 13h
        self.code.extend([0xb4, 0x42, 0xbe, a, b, 0xcd, 0x13]);
        self.print_at(LOADED)
    }

    fn print_at(mut self, at: u16) -> Self {
        let [a, b] = at.to_le_bytes();
        self.code.extend([0xbe, a, b, 0xe8]);
        let [a, b] = ((PRINT - self.code.len() - 2) as u16).to_le_bytes();
        self.code.extend([a, b]);
        self
    }

    /// Switches the machine off by ACPI's registers.
    pub(crate) fn power_off(self) -> Self {
        // mov dx, 604h; mov ax, SLP_EN; out dx, ax; jmp $
        self.code(&[0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xeb, 0xfe])
    }

    /// The sector, and sector 1 with `text`; the rest of the disk is empty.
    pub(crate) fn disk(self, text: &str) -> Vec<u8> {
        // print: lodsb; test al, al; jz done; mov ah, 0eh; mov bx, 7; int 10h; jmp print; done: sti; hlt; hlt; ret
        // SeaBIOS's serial console holds text back until the next tick.
        const CODE: [u8; 18] =
            [0xac, 0x84, 0xc0, 0x74, 9, 0xb4, 0x0e, 0xbb, 7, 0, 0xcd, 0x10, 0xeb, 0xf2, 0xfb, 0xf4, 0xf4, 0xc3];
        assert!(self.code.len() <= TEXT && TEXT + self.text.len() <= PACKET);
        let mut disk = vec![0; 1 << 20];
        disk[..self.code.len()].copy_from_slice(&self.code);
        disk[TEXT..TEXT + self.text.len()].copy_from_slice(&self.text);
        disk[PACKET..PACKET + 16].copy_from_slice(&self.packet);
        disk[PRINT..PRINT + CODE.len()].copy_from_slice(&CODE);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[512..512 + text.len()].copy_from_slice(text.as_bytes());
        disk
    }
}

/// A UEFI program (PE32+): looks for the variable `visor`, sets it if it was not there, prints `there` or `missing` (up to 30
/// characters) and switches off.
pub(crate) fn efi_program(there: &str, missing: &str) -> Vec<u8> {
    const IMAGE: usize = 0x1000;
    const NAME: usize = 0x300;
    const GUID: usize = 0x320;
    const THERE: usize = 0x340;
    const MISSING: usize = 0x380;
    const SIZE: usize = 0x3c0;
    const DATA: usize = 0x3d0;
    let mut code: Vec<u8> = Vec::new();
    // Loads the address of `to` with a LEA whose opcode and ModRM are given.
    let lea = |code: &mut Vec<u8>, op: [u8; 3], to: usize| {
        code.extend(op);
        let next = 0x200 + code.len() + 4;
        code.extend((to as i32 - next as i32).to_le_bytes());
    };
    // push rbx; push rsi; sub rsp, 38h; mov rbx, rdx (system table); mov rsi, [rbx+58h] (runtime services)
    code.extend([0x53, 0x56, 0x48, 0x83, 0xec, 0x38, 0x48, 0x89, 0xd3, 0x48, 0x8b, 0x73, 0x58]);
    lea(&mut code, [0x48, 0x8d, 0x0d], NAME); // rcx
    lea(&mut code, [0x48, 0x8d, 0x15], GUID); // rdx
    code.extend([0x45, 0x31, 0xc0]); // xor r8d, r8d
    lea(&mut code, [0x4c, 0x8d, 0x0d], SIZE); // r9
    lea(&mut code, [0x48, 0x8d, 0x05], DATA); // rax
    // mov [rsp+20h], rax; call [rsi+48h] (GetVariable); test rax, rax
    code.extend([0x48, 0x89, 0x44, 0x24, 0x20, 0xff, 0x56, 0x48, 0x48, 0x85, 0xc0]);
    lea(&mut code, [0x48, 0x8d, 0x15], THERE);
    // LEA leaves flags: jz past the other branch, patched below.
    code.extend([0x74, 0]);
    let branch = code.len();
    lea(&mut code, [0x48, 0x8d, 0x0d], NAME);
    lea(&mut code, [0x48, 0x8d, 0x15], GUID);
    // mov r8d, 3 (non-volatile, boot services); mov r9d, 1
    code.extend([0x41, 0xb8, 3, 0, 0, 0, 0x41, 0xb9, 1, 0, 0, 0]);
    lea(&mut code, [0x48, 0x8d, 0x05], DATA);
    code.extend([0x48, 0x89, 0x44, 0x24, 0x20, 0xff, 0x56, 0x58]); // SetVariable
    lea(&mut code, [0x48, 0x8d, 0x15], MISSING);
    code[branch - 1] = (code.len() - branch) as u8;
    // mov rcx, [rbx+40h] (console); call [rcx+8] (OutputString)
    code.extend([0x48, 0x8b, 0x4b, 0x40, 0xff, 0x51, 0x08]);
    // mov ecx, 2 (shut down); xor edx, edx; xor r8d, r8d; xor r9d, r9d; call [rsi+68h] (ResetSystem); jmp $
    code.extend([0xb9, 2, 0, 0, 0, 0x31, 0xd2, 0x45, 0x31, 0xc0, 0x45, 0x31, 0xc9, 0xff, 0x56, 0x68, 0xeb, 0xfe]);
    assert!(0x200 + code.len() <= NAME);
    let mut image = pe_header(IMAGE as u32);
    image.resize(IMAGE, 0);
    image[0x200..0x200 + code.len()].copy_from_slice(&code);
    let mut put = |at: usize, text: &str| {
        for (i, unit) in text.encode_utf16().enumerate() {
            image[at + 2 * i..at + 2 * i + 2].copy_from_slice(&unit.to_le_bytes());
        }
    };
    put(NAME, "visor");
    put(THERE, there);
    put(MISSING, missing);
    image[GUID..GUID + 16].copy_from_slice(b"visor test guid.");
    image[SIZE] = 1;
    image[DATA] = 7;
    image
}

/// Headers of a PE32+ image for UEFI on x86-64 with one section at 200h, where it begins.
fn pe_header(size: u32) -> Vec<u8> {
    let mut h = b"MZ".to_vec();
    h.resize(0x3c, 0);
    h.extend(0x40u32.to_le_bytes());
    h.extend(b"PE\0\0");
    let short = |h: &mut Vec<u8>, v: u16| h.extend(v.to_le_bytes());
    let word = |h: &mut Vec<u8>, v: u32| h.extend(v.to_le_bytes());
    short(&mut h, 0x8664);
    short(&mut h, 1); // sections
    [0, 0, 0].iter().for_each(|v| word(&mut h, *v));
    short(&mut h, 0xf0); // optional header
    short(&mut h, 0x22e); // executable, without symbols, large addresses; it may be relocated
    short(&mut h, 0x20b); // PE32+
    short(&mut h, 0);
    for v in [size - 0x200, 0, 0, 0x200, 0x200] {
        word(&mut h, v);
    }
    h.extend(0u64.to_le_bytes()); // base
    for v in [0x200, 0x200, 0, 0, 0, 0, size, 0x200, 0] {
        word(&mut h, v);
    }
    short(&mut h, 10); // a UEFI application
    short(&mut h, 0);
    [0x10_0000u64, 0x1000, 0x10_0000, 0x1000].iter().for_each(|v| h.extend(v.to_le_bytes()));
    word(&mut h, 0);
    word(&mut h, 16);
    h.resize(h.len() + 16 * 8, 0);
    h.extend(b".text\0\0\0");
    for v in [size - 0x200, 0x200, size - 0x200, 0x200, 0, 0, 0, 0xe000_0060] {
        word(&mut h, v);
    }
    h
}

/// A disk of 16 MiB with one FAT16 file system, where UEFI finds `program`.
pub(crate) fn efi_disk(program: &[u8]) -> Vec<u8> {
    const SECTOR: usize = 512;
    const CLUSTER: usize = 4 * SECTOR;
    const SECTORS: usize = 32768;
    const FAT: usize = 32;
    let mut disk = vec![0; SECTORS * SECTOR];
    disk[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
    disk[3..11].copy_from_slice(b"VISOR   ");
    // 512 bytes, 4 sectors a cluster, 1 reserved, 2 FATs, 512 root entries, 32768 sectors, medium, 32 sectors a FAT
    disk[11..24].copy_from_slice(&[0, 2, 4, 1, 0, 2, 0, 2, 0, 0x80, 0xf8, FAT as u8, 0]);
    disk[24..28].copy_from_slice(&[63, 0, 16, 0]);
    disk[36..39].copy_from_slice(&[0x80, 0, 0x29]);
    disk[43..62].copy_from_slice(b"NO NAME    FAT16   ");
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let clusters = program.len().div_ceil(CLUSTER);
    let mut table: Vec<u16> = vec![0xfff8, 0xffff, 0xffff, 0xffff];
    table.extend((0..clusters).map(|i| if i + 1 < clusters { 5 + i as u16 } else { 0xffff }));
    for fat in 0..2 {
        for (i, entry) in table.iter().enumerate() {
            let at = (1 + fat * FAT) * SECTOR + 2 * i;
            disk[at..at + 2].copy_from_slice(&entry.to_le_bytes());
        }
    }
    let root = (1 + 2 * FAT) * SECTOR;
    let data = root + 512 * 32;
    let entry = |name: &[u8; 11], directory: bool, cluster: u16, size: u32| {
        let mut e = [0; 32];
        e[..11].copy_from_slice(name);
        e[11] = if directory { 0x10 } else { 0x20 };
        e[26..28].copy_from_slice(&cluster.to_le_bytes());
        e[28..].copy_from_slice(&size.to_le_bytes());
        e
    };
    let mut put = |at: usize, bytes: &[u8]| disk[at..at + bytes.len()].copy_from_slice(bytes);
    put(root, &entry(b"EFI        ", true, 2, 0));
    put(data, &[entry(b".          ", true, 2, 0), entry(b"..         ", true, 0, 0)].concat());
    put(data + 64, &entry(b"BOOT       ", true, 3, 0));
    put(data + CLUSTER, &[entry(b".          ", true, 3, 0), entry(b"..         ", true, 2, 0)].concat());
    put(data + CLUSTER + 64, &entry(b"BOOTX64 EFI", false, 4, program.len() as u32));
    put(data + 2 * CLUSTER, program);
    disk
}
