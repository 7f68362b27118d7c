//! The member map: one document, signed by an operator, that only moves forward.
