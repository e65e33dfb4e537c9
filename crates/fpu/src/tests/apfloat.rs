//! A second opinion on 80-bit arithmetic, independent of the host.

use rustc_apfloat::ieee::X87DoubleExtended;
use rustc_apfloat::{Float, Round, Status, StatusAnd};

use super::Machine;
use super::random::Random;

type Operation = fn(X87DoubleExtended, X87DoubleExtended, Round) -> StatusAnd<X87DoubleExtended>;

/// Exception flags: IE, ZE, OE, UE, PE.
fn flags(status: Status) -> u16 {
    [
        (Status::INVALID_OP, 1),
        (Status::DIV_BY_ZERO, 4),
        (Status::OVERFLOW, 8),
        (Status::UNDERFLOW, 16),
        (Status::INEXACT, 32),
    ]
    .iter()
    .filter(|(bit, _)| status.contains(*bit))
    .fold(0, |flags, (_, bit)| flags | bit)
}

/// Numbers and infinities in a canonical encoding: NaN payloads and unsupported encodings are
/// processor matters, which the host test covers.
fn is_plain(value: u128) -> bool {
    let exponent = (value >> 64) & 0x7FFF;
    let integer = value >> 63 & 1;
    let fraction = value as u64 & (u64::MAX >> 1);
    (exponent == 0) == (integer == 0) && (exponent != 0x7FFF || fraction == 0)
}

#[test]
fn add_sub_mul_div_agree_with_apfloat() {
    // fadd, fsub, fmul, fdiv st0, st1
    let operations: [(&[u8], Operation); 4] = [
        (&[0xD8, 0xC1], |a, b, r| a.add_r(b, r)),
        (&[0xD8, 0xE1], |a, b, r| a.sub_r(b, r)),
        (&[0xD8, 0xC9], |a, b, r| a.mul_r(b, r)),
        (&[0xD8, 0xF1], |a, b, r| a.div_r(b, r)),
    ];
    let rounds = [Round::NearestTiesToEven, Round::TowardNegative, Round::TowardPositive, Round::TowardZero];
    let mut random = Random::new(11);
    let mut compared = 0;
    for (bytes, operation) in operations {
        let op = super::prepare(bytes, 64);
        for case in 0..10_000 {
            let (a, b) = (random.f80(), random.f80());
            if !is_plain(a) || !is_plain(b) {
                continue;
            }
            let rounding = case % 4;
            let mut machine = Machine::new();
            machine.state.set_fcw(0x37F | (rounding as u16) << 10);
            machine.state.set_ftw(0xFF);
            machine.state.set_st(0, a);
            machine.state.set_st(1, b);
            machine.run(&op).unwrap();
            let [x, y] = [a, b].map(X87DoubleExtended::from_bits);
            let expected = operation(x, y, rounds[rounding]);
            let context = format!("{bytes:x?} {a:x} {b:x} {:?}", rounds[rounding]);
            if expected.value.is_nan() {
                assert_eq!(machine.state.st(0), 0xFFFF_C000_0000_0000_0000, "{context}");
            } else {
                assert_eq!(machine.state.st(0), expected.value.to_bits(), "{context}");
            }
            // The denormal-operand flag has no counterpart. The library detects tininess
            // otherwise at the boundary, and reports no overflow when a directed rounding gives
            // the largest finite number.
            let mask = if expected.value.is_infinite() { 0x2D } else { 0x25 };
            assert_eq!(machine.state.fsw() & mask, flags(expected.status) & mask, "{context}");
            compared += 1;
        }
    }
    assert!(compared > 20_000, "{compared}");
}
