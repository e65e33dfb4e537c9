//! Key instructions through `lower` and their handlers, against results worked out by hand or by the host. The differential
//! fuzzer covers the rest.

use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions};
use visor_apic::{LocalApic, LocalApicConfig};
use visor_engine::VcpuId;
use visor_fpu::FpuUnit;
use visor_memory::{Gpa, GuestMemory, RamRange};
use visor_x86::cpuid::Cpuid;
use visor_x86::exception::Vector;
use visor_x86::segment::{SegAttr, Segment};

use crate::clock::TscClock;
use crate::cpu::{CodeSize, Cpu, Mode, Parts};
use crate::decode::lower;
use crate::exec::int::{AF, CF, OF, PF, SF, ZF};
use crate::fabric::{CpuPort, Fabric};
use crate::mmu::CpuBox;
use crate::op::{Flow, REG_BLOCK_RIP};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RSI: usize = 6;
const RDI: usize = 7;

/// A CPU over a little RAM, without paging.
fn cpu(size: CodeSize) -> CpuBox {
    let ram = Arc::new(GuestMemory::new(&[RamRange { start: Gpa(0), len: 1 << 20 }]).unwrap());
    let apic = LocalApic::new(LocalApicConfig {
        id: 0,
        boot: true,
        x2apic: true,
        tsc_deadline: true,
        phys_bits: 40,
        tsc_hz: 1_000_000_000,
    });
    let port = Arc::new(CpuPort::new(VcpuId(0), apic));
    let mut cpu = Cpu::power_up(Parts {
        id: VcpuId(0),
        cpuid: Cpuid::default(),
        port,
        fabric: Arc::new(Fabric::default()),
        ram,
        fpu_unit: Arc::new(FpuUnit::new().unwrap()),
        clock: TscClock::measure(),
        epoch_tsc: 0,
    })
    .unwrap();
    let width = u64::MAX >> (64 - size.bits());
    cpu.mode = Mode { size, protected: size != CodeSize::Bits16, single: false };
    cpu.rip_mask = width;
    cpu.stack_mask = width;
    cpu.seg_base = [0; 7];
    let limit = if size == CodeSize::Bits16 { 0xffff } else { u32::MAX };
    cpu.seg = [Segment { selector: 0, base: 0, limit, attr: SegAttr(0xc093) }; 6];
    cpu.seg[1].attr = SegAttr(0xc09b);
    cpu.gpr = [0; 18];
    cpu.gpr[RSP] = 0x8000;
    cpu.status = 0;
    cpu
}

/// Executes `code` once through, as one block at address 4000h.
fn run(cpu: &mut Cpu, code: &[u8]) -> Flow {
    let mut decoder = Decoder::with_ip(cpu.mode.size.bits(), code, 0, DecoderOptions::NONE);
    cpu.rip = 0x4000;
    cpu.gpr[usize::from(REG_BLOCK_RIP)] = cpu.rip;
    let mut last = Flow::Next;
    while decoder.can_decode() {
        let at = decoder.position() as u16;
        let ins = decoder.decode();
        let mode = cpu.mode;
        let op = lower(cpu, &ins, mode, at).op;
        last = (op.run)(cpu, &op);
        if last != Flow::Next {
            break;
        }
    }
    last
}

fn long() -> CpuBox {
    cpu(CodeSize::Bits64)
}

#[test]
fn flags_of_addition_and_subtraction() {
    let table: [(&[u8], u64, u64, u64, u64); 6] = [
        (&[0x01, 0xd8], 0xffff_ffff, 1, 0, CF | PF | AF | ZF), // add eax, ebx
        (&[0x48, 0x01, 0xd8], i64::MAX as u64, 1, 1 << 63, PF | AF | SF | OF), // add rax, rbx
        (&[0x00, 0xd8], 0x1180, 0x80, 0x1100, CF | PF | ZF | OF), // add al, bl
        (&[0x29, 0xd8], 1, 2, 0xffff_ffff, CF | PF | AF | SF), // sub eax, ebx
        (&[0x66, 0x29, 0xd8], 0x1_8000, 1, 0x1_7fff, PF | AF | OF), // sub ax, bx
        (&[0x38, 0xdc], 0x0500, 5, 0x0500, PF | ZF),           // cmp ah, bl
    ];
    for (code, a, b, result, flags) in table {
        let mut cpu = long();
        (cpu.gpr[RAX], cpu.gpr[RBX]) = (a, b);
        assert_eq!(run(&mut cpu, code), Flow::Next);
        assert_eq!((cpu.gpr[RAX], cpu.status), (result, flags), "{code:x?}");
    }
}

#[test]
fn carries_go_in() {
    let mut cpu = long();
    cpu.status = CF;
    cpu.gpr[RAX] = u64::MAX;
    // adc rax, 0; sbb rbx, rbx; inc ecx
    assert_eq!(run(&mut cpu, &[0x48, 0x83, 0xd0, 0, 0x48, 0x19, 0xdb, 0xff, 0xc1]), Flow::Next);
    assert_eq!((cpu.gpr[RAX], cpu.gpr[RBX], cpu.gpr[RCX]), (0, u64::MAX, 1));
    assert_eq!(cpu.status, CF, "INC leaves CF alone");
}

#[test]
fn narrow_writes_merge_and_32_bit_writes_clear() {
    let mut cpu = long();
    cpu.gpr[RAX] = 0x1111_2222_3333_4444;
    assert_eq!(run(&mut cpu, &[0xb4, 0xaa, 0xb0, 0xbb]), Flow::Next); // mov ah, 0xaa; mov al, 0xbb
    assert_eq!(cpu.gpr[RAX], 0x1111_2222_3333_aabb);
    assert_eq!(run(&mut cpu, &[0x66, 0xb8, 0x34, 0x12]), Flow::Next); // mov ax, 0x1234
    assert_eq!(cpu.gpr[RAX], 0x1111_2222_3333_1234);
    assert_eq!(run(&mut cpu, &[0x89, 0xc0]), Flow::Next); // mov eax, eax
    assert_eq!(cpu.gpr[RAX], 0x3333_1234);
}

#[test]
fn shifts_by_zero_keep_flags() {
    let mut cpu = long();
    cpu.status = CF | OF | ZF;
    cpu.gpr[RAX] = 0xffff_ffff_0000_0001;
    cpu.gpr[RCX] = 0x20;
    assert_eq!(run(&mut cpu, &[0xd3, 0xe0]), Flow::Next); // shl eax, cl
    assert_eq!((cpu.gpr[RAX], cpu.status), (1, CF | OF | ZF));
    assert_eq!(run(&mut cpu, &[0xc1, 0xe8, 1]), Flow::Next); // shr eax, 1
    assert_eq!((cpu.gpr[RAX], cpu.status & (CF | ZF)), (0, CF | ZF));
    cpu.gpr[RAX] = 0x80;
    assert_eq!(run(&mut cpu, &[0xc0, 0xd0, 9]), Flow::Next); // rcl al, 9: nine bits round, so nothing moves
    assert_eq!(cpu.gpr[RAX], 0x80);
}

#[test]
fn division() {
    let mut cpu = long();
    (cpu.gpr[RAX], cpu.gpr[RDX], cpu.gpr[RBX]) = (7, 0, 2);
    assert_eq!(run(&mut cpu, &[0xf7, 0xf3]), Flow::Next); // div ebx
    assert_eq!((cpu.gpr[RAX], cpu.gpr[RDX]), (3, 1));
    (cpu.gpr[RAX], cpu.gpr[RDX], cpu.gpr[RBX]) = (i64::MIN as u64, u64::MAX, 1);
    assert_eq!(run(&mut cpu, &[0x48, 0xf7, 0xfb]), Flow::Next); // idiv rbx
    assert_eq!((cpu.gpr[RAX], cpu.gpr[RDX]), (i64::MIN as u64, 0));
    for divisor in [0, u64::MAX] {
        (cpu.gpr[RAX], cpu.gpr[RDX], cpu.gpr[RBX]) = (i64::MIN as u64, u64::MAX, divisor);
        assert_eq!(run(&mut cpu, &[0x48, 0xf7, 0xfb]), Flow::Fault, "idiv by {divisor:x}");
        assert_eq!(cpu.fault.vector, Vector::DivideError);
        assert_eq!((cpu.gpr[RAX], cpu.gpr[RDX]), (i64::MIN as u64, u64::MAX));
    }
}

#[test]
fn memory_operands() {
    let mut cpu = long();
    (cpu.gpr[RBX], cpu.gpr[RCX], cpu.gpr[RAX]) = (0x1000, 4, 0x1122_3344_5566_7788);
    // mov [rbx+rcx*8-8], rax; add dword [rbx+rcx*8-8], 1; lock xadd [rbx+rcx*8-4], eax; movzx edx, word [rip+disp]
    let code = [0x48, 0x89, 0x44, 0xcb, 0xf8, 0x83, 0x44, 0xcb, 0xf8, 0x01, 0xf0, 0x0f, 0xc1, 0x44, 0xcb, 0xfc];
    assert_eq!(run(&mut cpu, &code), Flow::Next);
    assert_eq!(cpu.gpr[RAX], 0x1122_3344);
    assert_eq!(cpu.read::<u64>(0x1018, 3).unwrap(), (0x1122_3344u64 + 0x5566_7788) << 32 | 0x5566_7789);
    // mov eax, [rip - 0x2fee]: the block is at 4000h, the next instruction at 4006h
    assert_eq!(run(&mut cpu, &[0x8b, 0x05, 0x12, 0xd0, 0xff, 0xff]), Flow::Next);
    assert_eq!(cpu.gpr[RAX], 0x5566_7789);
}

#[test]
fn bit_tests_reach_beyond_their_operand() {
    let mut cpu = long();
    (cpu.gpr[RBX], cpu.gpr[RCX]) = (0x2000, (-1i64) as u64);
    assert_eq!(run(&mut cpu, &[0x0f, 0xab, 0x0b]), Flow::Next); // bts [rbx], ecx
    assert_eq!(cpu.read::<u32>(0x1ffc, 3).unwrap(), 1 << 31);
    assert_eq!(cpu.status & CF, 0);
    assert_eq!(run(&mut cpu, &[0x48, 0x0f, 0xa3, 0x0b]), Flow::Next); // bt [rbx], rcx
    assert_eq!(cpu.status & CF, CF);
}

#[test]
fn compare_and_exchange() {
    let mut cpu = long();
    (cpu.gpr[RAX], cpu.gpr[RBX], cpu.gpr[RSI]) = (5, 9, 0x1000);
    assert_eq!(run(&mut cpu, &[0xf0, 0x0f, 0xb1, 0x1e]), Flow::Next); // lock cmpxchg [rsi], ebx
    assert_eq!((cpu.gpr[RAX], cpu.status & ZF), (0, 0));
    assert_eq!(run(&mut cpu, &[0xf0, 0x0f, 0xb1, 0x1e]), Flow::Next);
    assert_eq!((cpu.read::<u32>(0x1000, 3).unwrap(), cpu.status & ZF), (9, ZF));
    (cpu.gpr[RDX], cpu.gpr[RAX], cpu.gpr[RCX], cpu.gpr[RBX]) = (0, 9, 0x55, 0x66);
    assert_eq!(run(&mut cpu, &[0xf0, 0x48, 0x0f, 0xc7, 0x0e]), Flow::Next); // lock cmpxchg16b [rsi]
    assert_eq!(cpu.read::<u128>(0x1000, 3).unwrap(), 0x55 << 64 | 0x66);
    cpu.gpr[RSI] = 0x1008;
    assert_eq!(run(&mut cpu, &[0x48, 0x0f, 0xc7, 0x0e]), Flow::Fault);
    assert_eq!(cpu.fault.vector, Vector::GeneralProtection);
}

#[test]
fn stack_and_near_branches() {
    let mut cpu = long();
    assert_eq!(run(&mut cpu, &[0x6a, 0xff, 0x8f, 0x04, 0x24]), Flow::Next); // push -1; pop [rsp]
    assert_eq!((cpu.gpr[RSP], cpu.read::<u64>(0x8000, 2).unwrap()), (0x8000, u64::MAX));
    assert_eq!(run(&mut cpu, &[0xe8, 0x10, 0, 0, 0]), Flow::End); // call +0x10
    assert_eq!((cpu.rip, cpu.gpr[RSP]), (0x4015, 0x7ff8));
    assert_eq!(run(&mut cpu, &[0xc2, 8, 0]), Flow::End); // ret 8
    assert_eq!((cpu.rip, cpu.gpr[RSP]), (0x4005, 0x8008));
    cpu.status = SF;
    assert_eq!(run(&mut cpu, &[0x7c, 0xfe]), Flow::End); // jl to itself
    assert_eq!(cpu.rip, 0x4000);
    cpu.status = SF | OF;
    assert_eq!(run(&mut cpu, &[0x7c, 0xfe]), Flow::End);
    assert_eq!(cpu.rip, 0x4002);
    cpu.gpr[RAX] = 1 << 63;
    assert_eq!(run(&mut cpu, &[0xff, 0xe0]), Flow::Fault); // jmp rax, not canonical
    // enter 16, 2; leave
    (cpu.gpr[RSP], cpu.gpr[5]) = (0x8000, 0x9000);
    assert_eq!(run(&mut cpu, &[0xc8, 16, 0, 2]), Flow::Next);
    assert_eq!((cpu.gpr[RSP], cpu.gpr[5]), (0x8000 - 24 - 16, 0x7ff8));
    assert_eq!(run(&mut cpu, &[0xc9]), Flow::Next);
    assert_eq!((cpu.gpr[RSP], cpu.gpr[5]), (0x8000, 0x9000));
}

#[test]
fn sixteen_bit_code_wraps_and_checks_limits() {
    let mut cpu = cpu(CodeSize::Bits16);
    cpu.gpr[RSP] = 0xffff_0000;
    assert_eq!(run(&mut cpu, &[0x60, 0x61]), Flow::Next); // pusha; popa
    assert_eq!(cpu.gpr[RSP], 0xffff_0000);
    cpu.gpr[RBX] = 0xffff;
    assert_eq!(run(&mut cpu, &[0x8b, 0x07]), Flow::Fault); // mov ax, [bx]: the word ends beyond the limit
    assert_eq!(cpu.fault.vector, Vector::GeneralProtection);
    assert_eq!(run(&mut cpu, &[0xeb, 0x80]), Flow::End);
    assert_eq!(cpu.rip, 0x4002 - 0x80);
    cpu.gpr[RCX] = 0x1_0001;
    assert_eq!(run(&mut cpu, &[0xe2, 0x10]), Flow::End); // loop: CX becomes 0
    assert_eq!((cpu.rip, cpu.gpr[RCX]), (0x4002, 0x1_0000));
}

#[test]
fn repeated_strings() {
    let mut cpu = long();
    (cpu.gpr[RAX], cpu.gpr[RCX], cpu.gpr[RDI]) = (0x0102_0304, 0x900, 0x1801);
    assert_eq!(run(&mut cpu, &[0xf3, 0xab]), Flow::Next); // rep stosd, unaligned, over pages
    assert_eq!((cpu.gpr[RCX], cpu.gpr[RDI]), (0, 0x1801 + 0x2400));
    assert_eq!(cpu.read::<u32>(0x1801 + 0x23fc, 3).unwrap(), 0x0102_0304);
    assert_eq!(cpu.read::<u8>(0x1801 + 0x2400, 3).unwrap(), 0);
    // An overlapping copy upwards repeats the first element.
    cpu.write::<u8>(0x6000, 3, 0xab, None).unwrap();
    (cpu.gpr[RCX], cpu.gpr[RSI], cpu.gpr[RDI]) = (0x1800, 0x6000, 0x6001);
    assert_eq!(run(&mut cpu, &[0xf3, 0xa4]), Flow::Next); // rep movsb
    assert_eq!((cpu.gpr[RSI], cpu.gpr[RDI]), (0x7800, 0x7801));
    assert_eq!(cpu.read::<u8>(0x7800, 3).unwrap(), 0xab);
    // repne scasb finds the first other byte
    (cpu.gpr[RAX], cpu.gpr[RCX], cpu.gpr[RDI]) = (0, u64::MAX, 0x6000);
    while run(&mut cpu, &[0xf2, 0xae]) == Flow::Again {}
    assert_eq!((cpu.gpr[RDI], cpu.status & ZF), (0x7802, ZF));
}

#[test]
fn a_fault_in_a_repeated_string_keeps_what_was_done() {
    let mut cpu = cpu(CodeSize::Bits32);
    cpu.seg[0].limit = 0x1fff;
    (cpu.gpr[RCX], cpu.gpr[RSI], cpu.gpr[RDI]) = (0x100, 0x3000, 0x1ff0);
    assert_eq!(run(&mut cpu, &[0xf3, 0xa5]), Flow::Fault); // rep movsd
    assert_eq!((cpu.gpr[RCX], cpu.gpr[RSI], cpu.gpr[RDI]), (0xfc, 0x3010, 0x2000));
}

#[test]
fn locks_and_unknown_opcodes_are_undefined() {
    for code in [&[0xf0u8, 0x01, 0xc0][..], &[0xf0, 0x8b, 0x00], &[0x0f, 0x0b], &[0x06], &[0x0f, 0x01, 0xc2]] {
        let mut cpu = long();
        assert_eq!(run(&mut cpu, code), Flow::Fault, "{code:x?}");
        assert_eq!(cpu.fault.vector, Vector::InvalidOpcode, "{code:x?}");
    }
}

#[test]
fn vector_instructions_need_the_control_bits() {
    let mut cpu = long();
    cpu.cr0 = 0;
    cpu.cr4 = 0;
    let addps = [0x0f, 0x58, 0xc1];
    assert_eq!(run(&mut cpu, &addps), Flow::Fault);
    assert_eq!(cpu.fault.vector, Vector::InvalidOpcode);
    cpu.cr4 = 1 << 9;
    cpu.cr0 = 8;
    assert_eq!(run(&mut cpu, &addps), Flow::Fault);
    assert_eq!(cpu.fault.vector, Vector::DeviceNotAvailable);
    cpu.cr0 = 0;
    let one = u128::from(1.0f32.to_bits());
    cpu.fpu.set_xmm(0, one);
    cpu.fpu.set_xmm(1, one);
    assert_eq!(run(&mut cpu, &addps), Flow::Next);
    assert_eq!(cpu.fpu.xmm(0) as u32, 2.0f32.to_bits());
    cpu.gpr[RBX] = 0x1008;
    assert_eq!(run(&mut cpu, &[0x0f, 0x58, 0x03]), Flow::Fault); // addps xmm0, [rbx], misaligned
    assert_eq!(cpu.fault.vector, Vector::GeneralProtection);
    // movaps [rbx+8], xmm0; movq rax, xmm0
    assert_eq!(run(&mut cpu, &[0x0f, 0x29, 0x43, 0x08, 0x66, 0x48, 0x0f, 0x7e, 0xc0]), Flow::Next);
    assert_eq!(cpu.read::<u32>(0x1010, 3).unwrap(), 2.0f32.to_bits());
    assert_eq!(cpu.gpr[RAX], u64::from(2.0f32.to_bits()));
}

#[test]
fn vector_moves_and_integer_lanes() {
    let mut cpu = long();
    (cpu.cr0, cpu.cr4, cpu.xcr0) = (1, 1 << 9 | 1 << 18, 7);
    cpu.gpr[RAX] = 0x0102_0304_0506_0708;
    // movq xmm1, rax; punpcklqdq xmm1, xmm1; pcmpeqb xmm2, xmm2; paddb xmm1, xmm2; movhps [rbx], xmm1; pmovmskb ecx, xmm2
    let code = [
        0x66, 0x48, 0x0f, 0x6e, 0xc8, 0x66, 0x0f, 0x6c, 0xc9, 0x66, 0x0f, 0x74, 0xd2, 0x66, 0x0f, 0xfc, 0xca, 0x0f,
        0x17, 0x0b, 0x66, 0x0f, 0xd7, 0xca,
    ];
    cpu.gpr[RBX] = 0x1ffc;
    assert_eq!(run(&mut cpu, &code), Flow::Next);
    assert_eq!(cpu.read::<u64>(0x1ffc, 3).unwrap(), 0x0001_0203_0405_0607);
    assert_eq!(cpu.gpr[RCX], 0xffff);
    if !std::is_x86_feature_detected!("avx2") {
        return;
    }
    // vpbroadcastb ymm0, xmm1; vmovdqu [rbx], ymm0; vpcmpeqb ymm3, ymm0, [rbx]; vpmovmskb edx, ymm3; vzeroupper; vmovq xmm0, xmm0
    let code = [
        0xc4, 0xe2, 0x7d, 0x78, 0xc1, 0xc5, 0xfe, 0x7f, 0x03, 0xc5, 0xfd, 0x74, 0x1b, 0xc5, 0xfd, 0xd7, 0xd3, 0xc5,
        0xf8, 0x77, 0xc5, 0xfa, 0x7e, 0xc0,
    ];
    assert_eq!(run(&mut cpu, &code), Flow::Next);
    assert_eq!(cpu.read::<u128>(0x1ffc + 16, 3).unwrap(), u128::MAX / 0xff * 7);
    assert_eq!((cpu.gpr[RDX], cpu.fpu.ymm_hi(3)), (0xffff_ffff, 0));
    assert_eq!(cpu.fpu.xmm(0), 0x0707_0707_0707_0707);
    cpu.xcr0 = 3;
    assert_eq!(run(&mut cpu, &[0xc5, 0xf8, 0x77]), Flow::Fault);
    assert_eq!(cpu.fault.vector, Vector::InvalidOpcode);
    let mut real = self::cpu(CodeSize::Bits16);
    (real.cr4, real.xcr0) = (1 << 9 | 1 << 18, 7);
    assert_eq!(run(&mut real, &[0xc5, 0xf8, 0x77]), Flow::Fault);
}

#[test]
fn sixteen_bit_operand_and_address_forms() {
    let mut cpu = cpu(CodeSize::Bits16);
    cpu.seg[3].base = 0x1_0000;
    cpu.seg[0].base = 0x2_0000;
    cpu.seg[2].base = 0x3_0000;
    cpu.seg_base[..4].copy_from_slice(&[0x2_0000, 0, 0x3_0000, 0x1_0000]);
    (cpu.gpr[RBX], cpu.gpr[RSI], cpu.gpr[5]) = (0xfff0, 0x20, 0x40);
    // mov word [bx+si-2], 0x1234: wraps to DS:000E; mov eax, es:[bp+2]; mov [bp], ax (in SS)
    let code = [0xc7, 0x40, 0xfe, 0x34, 0x12, 0x26, 0x66, 0x8b, 0x46, 0x02, 0x89, 0x46, 0x00];
    cpu.write::<u32>(0x2_0042, 0, 0xdead_beef, None).unwrap();
    assert_eq!(run(&mut cpu, &code), Flow::Next);
    assert_eq!(cpu.read::<u16>(0x1_000e, 3).unwrap(), 0x1234);
    assert_eq!((cpu.gpr[RAX], cpu.read::<u16>(0x3_0040, 2).unwrap()), (0xdead_beef, 0xbeef));
    // push 0x1234 (imm16); push dword 5; pop eax; pop dx: the stack is SS:SP
    let code = [0x68, 0x34, 0x12, 0x66, 0x6a, 0x05, 0x66, 0x58, 0x5a];
    assert_eq!(run(&mut cpu, &code), Flow::Next);
    assert_eq!((cpu.gpr[RAX], cpu.gpr[RDX], cpu.gpr[RSP]), (5, 0x1234, 0x8000));
    assert_eq!(cpu.read::<u16>(0x3_7ffe, 2).unwrap(), 0x1234);
    // lea eax, [ebx+esi*4+1] with a 32-bit address; then a load beyond 64 KiB faults
    assert_eq!(run(&mut cpu, &[0x66, 0x67, 0x8d, 0x44, 0xb3, 0x01]), Flow::Next);
    assert_eq!(cpu.gpr[RAX], 0xfff0 + 0x80 + 1);
    assert_eq!(run(&mut cpu, &[0x67, 0x8a, 0x00]), Flow::Fault);
    // call near; ret; jmp with a 32-bit target beyond the limit
    assert_eq!(run(&mut cpu, &[0xe8, 0xfd, 0x0f]), Flow::End);
    assert_eq!((cpu.rip, cpu.read::<u16>(0x3_7ffe, 2).unwrap()), (0x5000, 0x4003));
    assert_eq!(run(&mut cpu, &[0xc3]), Flow::End);
    assert_eq!((cpu.rip, cpu.gpr[RSP]), (0x4003, 0x8000));
    assert_eq!(run(&mut cpu, &[0x66, 0xe9, 0, 0, 1, 0]), Flow::Fault);
    // rep movsw from DS to ES, over the end of the offset space
    (cpu.gpr[RCX], cpu.gpr[RSI], cpu.gpr[RDI]) = (3, 0xfffc, 0x100);
    cpu.write::<u64>(0x1_fffc, 3, 0x4444_3333_2222_1111, None).unwrap();
    cpu.write::<u16>(0x1_0000, 3, 0x5555, None).unwrap();
    assert_eq!(run(&mut cpu, &[0xf3, 0xa5]), Flow::Next);
    assert_eq!(cpu.read::<u64>(0x2_0100, 0).unwrap(), 0x5555_2222_1111);
    assert_eq!((cpu.gpr[RCX], cpu.gpr[RSI], cpu.gpr[RDI]), (0, 2, 0x106));
    // daa, aam 10, aad 10
    (cpu.gpr[RAX], cpu.status) = (0x7c, 0);
    assert_eq!(run(&mut cpu, &[0x27]), Flow::Next);
    assert_eq!((cpu.gpr[RAX], cpu.status & (CF | AF)), (0x82, AF));
    assert_eq!(run(&mut cpu, &[0xd4, 0x0a]), Flow::Next);
    assert_eq!(cpu.gpr[RAX], 0x0d00);
    assert_eq!(run(&mut cpu, &[0xd5, 0x0a]), Flow::Next);
    assert_eq!(cpu.gpr[RAX], 0x82);
}

/// EVEX encodings are not announced, so they are #UD: every opcode of the maps that exist, with and without mandatory prefix,
/// register and memory operands, all vector lengths.
#[test]
fn evex_is_undefined() {
    let mut cpu = cpu(CodeSize::Bits64);
    let mut valid = 0;
    for map in [1u8, 2, 3, 5, 6] {
        for (opcode, rest) in (0..=255u8).flat_map(|o| (0..16u8).map(move |r| (o, r))) {
            let (prefix, wide, length) = (rest & 3, rest >> 2 & 1, rest >> 3);
            let head = [0x62, 0xf0 | map, 0x7c | prefix | wide << 7, 0x08 | length << 6];
            for modrm in [0xc1, 0x01] {
                let code = [&head[..], &[opcode, modrm, 1, 0x90, 0x90, 0x90]].concat();
                let ins = Decoder::new(64, &code, DecoderOptions::NONE).decode();
                valid += u32::from(!ins.is_invalid());
                let mode = cpu.mode;
                let op = lower(&mut cpu, &ins, mode, 0).op;
                assert_eq!((op.run)(&mut cpu, &op), Flow::Fault, "{code:02x?}");
                assert_eq!(cpu.fault.vector, Vector::InvalidOpcode, "{code:02x?}");
            }
        }
    }
    assert!(valid > 1000, "{valid} encodings that a CPU with AVX-512 would execute");
}
