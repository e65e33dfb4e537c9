use super::*;
use std::collections::HashSet;

#[test]
fn a_seed_and_an_index_name_a_case() {
    let make = || Generator::new(Options { seed: 7, ..Options::default() }).unwrap();
    for index in [0, 1, 99, 1 << 40] {
        assert_eq!(make().case(index), make().case(index));
    }
    assert_ne!(make().case(1).regs, make().case(2).regs);
}

#[test]
fn every_code_of_the_catalogue_can_be_built() {
    let catalog = Catalog::new(None);
    let mut missing = Vec::new();
    for mode in [Mode::Long, Mode::Compat] {
        for code in catalog.codes(mode) {
            let built = (0..200).any(|n| {
                let mut draft = Draft::new(Rng::for_case(1, n), mode);
                single(&mut draft, *code).is_some_and(|bytes| {
                    draft.case.set_code(&bytes);
                    decode(&draft.case).first().is_some_and(|i| i.code() == *code)
                })
            });
            if !built {
                missing.push((mode, *code));
            }
        }
    }
    assert!(missing.is_empty(), "{} not built: {missing:?}", missing.len());
}

#[test]
fn nothing_that_enters_a_kernel_is_generated() {
    let generator = Generator::new(Options { seed: 3, ..Options::default() }).unwrap();
    let mut seen = HashSet::new();
    for index in 0..20_000 {
        for i in decode(&generator.case(index)) {
            seen.insert(i.mnemonic());
        }
    }
    for bad in [
        iced_x86::Mnemonic::Syscall,
        iced_x86::Mnemonic::Sysenter,
        iced_x86::Mnemonic::Int,
        iced_x86::Mnemonic::Vmmcall,
    ] {
        assert!(!seen.contains(&bad), "{bad:?}");
    }
    assert!(seen.len() > 700, "only {} mnemonics", seen.len());
}
