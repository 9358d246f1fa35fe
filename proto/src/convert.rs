//! Between the generated `v1` messages and the domain. The domain never sees a prost type.
