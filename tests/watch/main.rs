//! What is watched of a line beside its verdicts, from outside: scores that drift while parts still pass, rejects that chance
//! does not explain, and known parts that are told apart or not. With a real broker, and evidence that is proved.

mod challenges;
mod drift;
mod rejects;
mod support;
