//! Tests of the executor through its public interface.

mod transactions;
