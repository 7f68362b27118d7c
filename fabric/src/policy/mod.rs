//! Who may talk to whom: default deny, and both ends must agree.
