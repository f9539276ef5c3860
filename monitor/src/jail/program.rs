//! From rules to a filter program: classic BPF over `struct seccomp_data`.
//!
//! ```text
//! check of the architecture · a tree that searches the number of the call · for each call its alternatives
//! ```
//!
//! seccompiler, which installs the programs, would put the calls in a row, and has no way to say that a call needs one of
//! several alternatives while all others are allowed. When a filter is installed the kernel walks it once for every number
//! there is, so the filter that each instance installs costs by the depth of the search: 57 µs as a tree, 75 as a row.

use seccompiler::{BpfProgram, SeccompAction, sock_filter};

use super::table::{Condition, Test, Width};

/// What a filter says of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Any arguments.
    Always(SeccompAction),
    /// The first action if all conditions of one of the alternatives hold, else the second.
    If {
        alternatives: Vec<Vec<Condition>>,
        then: SeccompAction,
        otherwise: SeccompAction,
    },
}

/// A program cannot be put together: a rule has more conditions than a jump can pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rule with too many conditions")]
pub struct TooLong;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// Instructions: class, size or operation, and mode, as in <linux/bpf_common.h>.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// A program for `rules`, which are sorted by the number of their call, and `otherwise` for all other calls. Calls of another
/// architecture kill.
pub fn assemble(rules: &[(u32, Rule)], otherwise: &SeccompAction) -> Result<BpfProgram, TooLong> {
    let mut program = vec![
        statement(LOAD, ARCHITECTURE),
        branch(JUMP_IF_EQUAL, AUDIT_ARCH_X86_64, 1, 0),
        give(&SeccompAction::KillProcess),
        statement(LOAD, NUMBER),
    ];
    program.extend(search(rules, otherwise)?);
    Ok(program)
}

/// Finds the call by its number, which is loaded.
fn search(rules: &[(u32, Rule)], otherwise: &SeccompAction) -> Result<BpfProgram, TooLong> {
    let mut program;
    match rules {
        [] => program = vec![give(otherwise)],
        [(number, rule)] => {
            program = vec![branch(JUMP_IF_EQUAL, *number, 1, 0), give(otherwise)];
            program.extend(judge(rule)?);
        }
        _ => {
            let (low, high) = rules.split_at(rules.len() / 2);
            let below = search(low, otherwise)?;
            // A conditional jump reaches 255 instructions, a plain one any number.
            let length = u32::try_from(below.len()).map_err(|_| TooLong)?;
            program = vec![branch(JUMP_IF_AT_LEAST, high[0].0, 0, 1), statement(JUMP, length)];
            program.extend(below);
            program.extend(search(high, otherwise)?);
        }
    }
    Ok(program)
}

fn judge(rule: &Rule) -> Result<BpfProgram, TooLong> {
    let (alternatives, then, otherwise) = match rule {
        Rule::Always(action) => return Ok(vec![give(action)]),
        Rule::If {
            alternatives,
            then,
            otherwise,
        } => (alternatives, then, otherwise),
    };
    let mut program = Vec::new();
    for conditions in alternatives {
        // From the last comparison to the first, since each jumps over all that follow.
        let mut alternative = vec![give(then)];
        for word in conditions.iter().flat_map(words).rev() {
            let Word {
                offset,
                mask,
                value,
                differs,
            } = word;
            let rest = u8::try_from(alternative.len()).map_err(|_| TooLong)?;
            let mut step = vec![statement(LOAD, offset)];
            if mask != u32::MAX {
                step.push(statement(AND, mask));
            }
            let (equal, other) = if differs { (rest, 0) } else { (0, rest) };
            step.push(branch(JUMP_IF_EQUAL, value, equal, other));
            step.append(&mut alternative);
            alternative = step;
        }
        program.append(&mut alternative);
    }
    program.push(give(otherwise));
    Ok(program)
}

/// Half an argument, as much as BPF can compare at once.
struct Word {
    offset: u32,
    mask: u32,
    value: u32,
    /// The condition holds if the value is another one.
    differs: bool,
}

fn words(condition: &Condition) -> Vec<Word> {
    let (mask, value) = match condition.test {
        Test::Is(value) | Test::IsNot(value) => (u64::MAX, value),
        Test::Bits { mask, value } => (mask, value),
    };
    let offset = ARGUMENTS + 8 * u32::from(condition.argument);
    let halves = [(offset, 0), (offset + 4, 32)];
    let read = match condition.kernel_reads {
        Width::Int => &halves[..1],
        Width::Long => &halves[..],
    };
    let half = |number: u64, shift: u32| u32::try_from(number >> shift & u64::from(u32::MAX)).unwrap_or(0);
    read.iter()
        .map(|(offset, shift)| Word {
            offset: *offset,
            mask: half(mask, *shift),
            value: half(value, *shift),
            differs: matches!(condition.test, Test::IsNot(_)),
        })
        .filter(|word| word.mask != 0)
        .collect()
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn give(action: &SeccompAction) -> sock_filter {
    statement(RETURN, action.clone().into())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What the kernel would make of a call: the action's number.
    pub fn run(program: &[sock_filter], architecture: u32, number: u32, args: [u64; 6]) -> u32 {
        let load = |offset: u32| match offset {
            NUMBER => number,
            ARCHITECTURE => architecture,
            _ => {
                let argument = args[usize::try_from((offset - ARGUMENTS) / 8).unwrap()];
                u32::try_from(argument >> (8 * (offset % 8)) & 0xffff_ffff).unwrap()
            }
        };
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match code {
                LOAD => accumulator = load(k),
                AND => accumulator &= k,
                JUMP => at += usize::try_from(k).unwrap(),
                JUMP_IF_EQUAL => at += usize::from(if accumulator == k { jt } else { jf }),
                JUMP_IF_AT_LEAST => at += usize::from(if accumulator >= k { jt } else { jf }),
                RETURN => return k,
                _ => panic!("instruction {code:#x}"),
            }
        }
    }

    pub const NATIVE: u32 = AUDIT_ARCH_X86_64;

    fn number(action: SeccompAction) -> u32 {
        action.into()
    }

    #[test]
    fn every_number_finds_its_rule() {
        for count in [0, 1, 2, 3, 100, 400] {
            let rules: Vec<_> = (0..count)
                .map(|at| (3 * at + 1, Rule::Always(SeccompAction::Errno(at + 1))))
                .collect();
            let program = assemble(&rules, &SeccompAction::KillProcess).unwrap();
            for call in (0..3 * count + 10).chain([u32::MAX, 0x4000_0001]) {
                let expected = match call {
                    call if call % 3 == 1 && call < 3 * count => number(SeccompAction::Errno(call / 3 + 1)),
                    _ => number(SeccompAction::KillProcess),
                };
                assert_eq!(
                    run(&program, NATIVE, call, [0; 6]),
                    expected,
                    "{count} rules, call {call}"
                );
                assert_eq!(
                    run(&program, 0x4000_0003, call, [0; 6]),
                    number(SeccompAction::KillProcess)
                );
            }
        }
    }

    #[test]
    fn all_conditions_of_one_alternative_must_hold() {
        let condition = |argument, kernel_reads, test| Condition {
            argument,
            kernel_reads,
            test,
        };
        let rule = Rule::If {
            alternatives: vec![
                vec![
                    condition(0, Width::Int, Test::Is(7)),
                    condition(5, Width::Long, Test::Is(1 << 40 | 9)),
                ],
                vec![condition(
                    1,
                    Width::Int,
                    Test::Bits {
                        mask: 0xf0,
                        value: 0x20,
                    },
                )],
            ],
            then: SeccompAction::Allow,
            otherwise: SeccompAction::Trap,
        };
        let program = assemble(&[(16, rule)], &SeccompAction::KillProcess).unwrap();
        let allowed = |args| run(&program, NATIVE, 16, args) == number(SeccompAction::Allow);
        assert!(allowed([7, 0, 0, 0, 0, 1 << 40 | 9]));
        // The kernel does not look at the upper half of an int.
        assert!(allowed([1 << 32 | 7, 0, 0, 0, 0, 1 << 40 | 9]));
        assert!(!allowed([7, 0, 0, 0, 0, 9]));
        assert!(!allowed([7, 0, 0, 0, 0, 1 << 40]));
        assert!(!allowed([8, 0, 0, 0, 0, 1 << 40 | 9]));
        assert!(allowed([0, 0x12f, 0, 0, 0, 0]));
        assert!(!allowed([0, 0x13f, 0, 0, 0, 0]));
        assert_eq!(run(&program, NATIVE, 16, [0; 6]), number(SeccompAction::Trap));
    }
}
