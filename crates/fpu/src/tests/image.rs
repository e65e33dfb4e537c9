//! FXSAVE and XSAVE images.

use super::random::Random;
use crate::{
    FpuFault, FpuState, FxLayout, XCR0_AVX, XCR0_SSE, XCR0_SUPPORTED, XCR0_X87, XSAVE_AREA_SIZE, fxrstor, fxsave,
    xrstor, xsave, xsavec, xsavec_size,
};

const LONG: FxLayout = FxLayout::LongRexW;
const GP: Result<(), FpuFault> = Err(FpuFault::GeneralProtection);

fn random_state() -> FpuState {
    let mut state = Random::new(9).state(false);
    state.set_fip(0x1122_3344_5566);
    state.set_fdp(0x7788_99AA_BBCC);
    state.set_fop(0x123);
    state
}

fn area_of(state: &FpuState, components: u64) -> [u8; XSAVE_AREA_SIZE] {
    let mut area = [0; XSAVE_AREA_SIZE];
    xsave(state, LONG, XCR0_SUPPORTED, components, &mut area);
    area
}

fn text(state: &FpuState) -> String {
    format!("{state:?}")
}

#[test]
fn xsave_round_trip() {
    let state = random_state();
    let area = area_of(&state, !0);
    assert_eq!(area[512], 7);
    let mut restored = FpuState::default();
    xrstor(&mut restored, LONG, XCR0_SUPPORTED, !0, &area).unwrap();
    assert_eq!(text(&state), text(&restored));
}

#[test]
fn xsave_leaves_unrequested_components() {
    let state = random_state();
    let mut area = [0xAA; XSAVE_AREA_SIZE];
    area[512..520].copy_from_slice(&0x4_u64.to_le_bytes());
    xsave(&state, LONG, XCR0_SUPPORTED, XCR0_SSE, &mut area);
    assert_eq!(area[0..24], [0xAA; 24]);
    assert_eq!(area[24..28], state.mxcsr().to_le_bytes());
    assert_eq!(area[32..160], [0xAA; 128]);
    assert_eq!(area[160..176], state.xmm(0).to_le_bytes());
    assert_eq!(area[416..512], [0xAA; 96]);
    assert_eq!(area[512], 6, "AVX stays, SSE added");
    assert_eq!(area[576..], [0xAA; 256]);
}

#[test]
fn init_state_is_not_in_use() {
    let mut state = FpuState::default();
    assert_eq!(area_of(&state, !0)[512], 0);
    state.set_ymm_hi(3, 1);
    assert_eq!(area_of(&state, !0)[512], 4);
    state.set_mxcsr(0x1F81);
    let mut area = [0xAA; XSAVE_AREA_SIZE];
    xsavec(&state, LONG, XCR0_SUPPORTED, !0, &mut area);
    assert_eq!(area[528..576], [0xAA; 48], "the rest of the header is not written");
    area[528..576].fill(0);
    assert_eq!(area[512], 6, "MXCSR counts for XSAVEC");
    assert_eq!(area[520..528], (1 << 63 | 7_u64).to_le_bytes());
    assert_eq!(area[0..24], [0xAA; 24], "x87 is in its initial state: not written");
    let mut restored = random_state();
    xrstor(&mut restored, LONG, XCR0_SUPPORTED, !0, &area).unwrap();
    assert_eq!(text(&state), text(&restored));
    assert_eq!((xsavec_size(7), xsavec_size(3)), (832, 576));
}

#[test]
fn absent_components_are_initialised() {
    let mut area = area_of(&random_state(), !0);
    area[512] = 0;
    area[24..28].copy_from_slice(&0x1FBF_u32.to_le_bytes());
    let mut state = random_state();
    xrstor(&mut state, LONG, XCR0_SUPPORTED, !0, &area).unwrap();
    let mut initial = FpuState::default();
    initial.set_mxcsr(0x1FBF); // loaded whatever XSTATE_BV says
    assert_eq!(text(&state), text(&initial));
    // Unrequested components stay.
    let mut state = random_state();
    xrstor(&mut state, LONG, XCR0_SUPPORTED, XCR0_AVX, &area).unwrap();
    assert_eq!(state.xmm(5), random_state().xmm(5));
    assert_eq!(state.ymm_hi(5), 0);
    assert_eq!(state.mxcsr(), 0x1FBF);
}

#[test]
fn malformed_headers_are_refused() {
    let good = area_of(&random_state(), !0);
    let mut state = random_state();
    let before = text(&state);
    let mut refused = |change: &dyn Fn(&mut [u8; XSAVE_AREA_SIZE]), xcr0| {
        let mut area = good;
        change(&mut area);
        assert_eq!(xrstor(&mut state, LONG, xcr0, !0, &area), GP);
        assert_eq!(before, text(&state));
    };
    refused(&|a| a[513] = 1, XCR0_SUPPORTED);
    refused(&|_| {}, XCR0_X87 | XCR0_SSE);
    refused(&|a| a[520] = 1, XCR0_SUPPORTED);
    refused(&|a| a[528] = 1, XCR0_SUPPORTED);
    refused(&|a| a[26] = 1, XCR0_SUPPORTED);
    let compact = |a: &mut [u8; XSAVE_AREA_SIZE]| a[527] = 0x80;
    refused(&compact, XCR0_SUPPORTED); // XSTATE_BV exceeds XCOMP_BV
    refused(&|a| (a[520], a[527]) = (15, 0x80), XCR0_SUPPORTED);
    refused(&|a| (a[520], a[527], a[575]) = (7, 0x80, 1), XCR0_SUPPORTED);
}

#[test]
fn fxsave_layouts() {
    let mut state = random_state();
    state.set_selectors(0x33, 0x2B);
    let mut image = [0xAA; 512];
    assert_eq!(fxsave(&state, FxLayout::LongRexW, &mut image), 416);
    assert_eq!(image[8..16], 0x1122_3344_5566_u64.to_le_bytes());
    assert_eq!(image[416..], [0xAA; 96]);
    let mut image = [0xAA; 512];
    assert_eq!(fxsave(&state, FxLayout::Long, &mut image), 416);
    assert_eq!(image[8..16], 0x33_3344_5566_u64.to_le_bytes());
    assert_eq!(image[16..24], 0x2B_99AA_BBCC_u64.to_le_bytes());
    let mut image = [0xAA; 512];
    assert_eq!(fxsave(&state, FxLayout::Legacy, &mut image), 288);
    assert_eq!(image[288..], [0xAA; 224]);
    let mut restored = FpuState::default();
    restored.set_xmm(8, 99);
    fxrstor(&mut restored, FxLayout::Legacy, &image).unwrap();
    assert_eq!(restored.selectors(), (0x33, 0x2B));
    assert_eq!(restored.xmm(7), state.xmm(7));
    assert_eq!(restored.xmm(8), 99);
    image[27] = 1;
    assert_eq!(fxrstor(&mut restored, FxLayout::Legacy, &image), GP);
}

#[test]
fn power_on_and_init_values() {
    let state = FpuState::power_on();
    assert_eq!((state.fcw(), state.fsw(), state.full_tag_word()), (0x40, 0, 0x5555));
    let state = FpuState::default();
    assert_eq!((state.fcw(), state.fsw(), state.full_tag_word()), (0x37F, 0, 0xFFFF));
    assert_eq!(state.mxcsr(), 0x1F80);
}
