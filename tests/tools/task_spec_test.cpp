#include "tools/commands/task_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/message_of.h"

namespace sidewinder {
namespace {

using testing::message_of;

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

TEST(TaskSpec, NamesAndSettings) {
  const TaskSpec spec = parse_task("niah:needles=4:queries=2");
  EXPECT_EQ(spec.kind->name, "niah");
  EXPECT_THAT(spec.settings, ElementsAre(Pair("needles", "4"), Pair("queries", "2")));
  const std::vector<TaskSpec> specs = parse_tasks("passkey,kv:pairs=75,ruler");
  ASSERT_EQ(specs.size(), 13u);  // RULER's, without question answering, are eleven
  EXPECT_EQ(specs[1].text, "kv:pairs=75");
  EXPECT_EQ(specs[2].text, "niah_single_1");
  EXPECT_EQ(specs[12].text, "fwe");
  EXPECT_THAT(parse_lengths("2048,512", "--lengths"), ElementsAre(512, 2048));
}

TEST(TaskSpec, WhatIsUnknownIsNamedWithTheNearest) {
  EXPECT_THAT(
      message_of([] { parse_tasks("passkey,niha"); }),
      AllOf(HasSubstr("no task \"niha\""), HasSubstr("did you mean niah?"), HasSubstr("mqar")));
  EXPECT_THAT(message_of([] { parse_task("niah:needle=4"); }),
              AllOf(HasSubstr("no setting \"needle\""), HasSubstr("did you mean needles?")));
  EXPECT_THAT(message_of([] { parse_task("niah:needles"); }), HasSubstr("has no value"));
  EXPECT_THAT(message_of([] { parse_task("niah:needles=1:needles=2"); }),
              HasSubstr("needles twice"));
  EXPECT_THAT(message_of([] { parse_tasks("vt,vt"); }), HasSubstr("names vt twice"));
  EXPECT_THAT(message_of([] { parse_tasks(""); }), HasSubstr("no task \"\""));
  EXPECT_THAT(message_of([] { parse_lengths("1k", "--lengths"); }),
              HasSubstr("--lengths has \"1k\"; it takes positive whole numbers"));
  EXPECT_THAT(message_of([] { parse_lengths("0", "--lengths"); }), HasSubstr("\"0\""));
  EXPECT_THAT(message_of([] { parse_lengths("8,8", "--lengths"); }), HasSubstr("8 twice"));
}

TEST(TaskSpec, HelpListsEveryTaskAndSetting) {
  for (const TaskKind& kind : task_kinds()) {
    EXPECT_THAT(task_help(), HasSubstr(kind.name));
    for (const auto& [name, help] : kind.settings) EXPECT_THAT(task_help(), HasSubstr(help));
  }
}

}  // namespace
}  // namespace sidewinder
