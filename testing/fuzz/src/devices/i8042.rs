//! Keyboard and mouse.

use std::sync::Arc;

use visor_chipset::{I8042, I8042Wires, PowerEvent, PowerSink};
use visor_console::{Button, InputEvent, Key};

use crate::pc::Pc;
use crate::{Input, Script};

/// Ignores the power switch.
pub(super) struct Power;

impl PowerSink for Power {
    fn request(&self, _event: PowerEvent) {}
}

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::new();
    let (clock, keyboard_irq, mouse_irq) = (pc.clock.clone(), pc.line(1), pc.line(12));
    let kbd =
        pc.timed(|timer| I8042::new(I8042Wires { clock, timer, keyboard_irq, mouse_irq, power: Arc::new(Power) }));
    pc.claim(&kbd);
    pc.drive(&mut Input::new(data), |_, _, input| {
        let event = event(input);
        let mut kbd = kbd.lock().expect("nobody panicked");
        kbd.input(&event);
        let _ = (kbd.is_idle(), kbd.mouse_enabled(), kbd.leds(), kbd.a20());
    });
}

/// What a user does.
pub(super) fn event(input: &mut Input<'_>) -> Vec<InputEvent> {
    const BUTTONS: [Button; 5] = [Button::Left, Button::Middle, Button::Right, Button::Side, Button::Extra];
    let one = |input: &mut Input<'_>| match input.below(5) {
        0 => InputEvent::Key { key: Key(input.u16()), down: input.u8() & 1 != 0 },
        1 => InputEvent::Motion { dx: input.u32() as i32, dy: input.u32() as i32 },
        2 => InputEvent::Wheel { dx: input.u32() as i32, dy: input.u32() as i32 },
        3 => InputEvent::Position { x: input.u16(), y: input.u16() },
        _ => InputEvent::Button { button: BUTTONS[input.below(5)], down: input.u8() & 1 != 0 },
    };
    (0..=input.below(8)).map(|_| one(input)).collect()
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let key = |s: Script, n: u16| s.extra(0).raw(&[0, 0]).raw(&n.to_le_bytes()).raw(&[1]);
    let init = Script::new().outs(1, &[(0, 0x60)]).outs(0, &[(0, 0x47)]).outs(1, &[(0, 0xa8), (0, 0xae)]);
    let mouse = |s: Script, byte: u8| s.outs(1, &[(0, 0xd4)]).outs(0, &[(0, byte)]).inp(0, 0, 1);
    let wheel = [0xf3, 200, 0xf3, 100, 0xf3, 80, 0xf2, 0xf4].into_iter().fold(init.clone(), mouse);
    let commands = [0xed, 7, 0xf0, 0, 0xf0, 1, 0xf3, 0x7f, 0xf2, 0xff, 0xf4, 0xee];
    vec![
        key(init.clone(), 30).wait(1 << 30).inp(0, 0, 1).inp(1, 0, 1).end(),
        commands.into_iter().fold(init, |s, b| s.outs(0, &[(0, b)]).inp(0, 0, 1)).wait(1 << 32).inp(0, 0, 1).end(),
        wheel
            .extra(1)
            .raw(&[2, 1, 100, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 4, 2, 1])
            .wait(1 << 28)
            .inp(0, 0, 1)
            .end(),
    ]
}
