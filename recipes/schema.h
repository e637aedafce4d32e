#pragma once
// The sections of a recipe, in the order in which they are documented and written. Each is defined
// in recipes/schema.

#include <string_view>
#include <vector>

#include "recipes/table.h"

namespace sidewinder {

Section run_section();
Section model_section();
Section data_section();
Section train_section();
Section context_section();
Section optimizer_section();
Section learning_rate_section();
Section checkpoint_section();
Section init_section();
Section extend_section();

const std::vector<Section>& sections();

// A key and the table it stands in.
struct SchemaKey {
  const TableInfo* table;
  const FieldInfo* field;
};

// Finds "model.block.m.state" and "data.train.0.folder" as well as "model.block.<letter>.state".
// Null members: unknown.
SchemaKey find_schema_key(std::string_view path);
// The same for a table; null: unknown.
const TableInfo* find_schema_table(std::string_view path);

}  // namespace sidewinder
