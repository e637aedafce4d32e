#include "data/tasks/draws.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>
#include <unordered_map>

#include "kernels/base/check.h"

namespace sidewinder {
namespace {

std::vector<std::string> split_words(const char* text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

}  // namespace

Draws::Draws(const TaskSource& source, const std::string& task, int64_t length, double depth,
             int64_t sample)
    : random_(source.seed, fmt::format("task/{}/{}/{}/{}/{}", source.purpose, task, length,
                                       std::llround(depth * 10000), sample)) {}

std::vector<int64_t> Draws::distinct(int64_t count, int64_t bound) {
  SIDEWINDER_ASSERT(count <= bound);
  // The first `count` places of a shuffle; only what was moved is kept.
  std::unordered_map<int64_t, int64_t> moved;
  const auto at = [&](int64_t i) {
    const auto found = moved.find(i);
    return found == moved.end() ? i : found->second;
  };
  std::vector<int64_t> result;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t k = between(i, bound - 1);
    result.push_back(at(k));
    moved[k] = at(i);
  }
  return result;
}

std::string Draws::digits(int64_t count) {
  std::string text(1, static_cast<char>('1' + below(9)));
  while (static_cast<int64_t>(text.size()) < count) text += static_cast<char>('0' + below(10));
  return text;
}

std::string Draws::letters(int64_t count, char first) {
  std::string text;
  for (int64_t i = 0; i < count; ++i) text += static_cast<char>(first + below(26));
  return text;
}

std::string Draws::uuid() {
  constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  for (int i = 0; i < 36; ++i) {
    if (i == 8 || i == 13 || i == 18 || i == 23) {
      text += '-';
    } else if (i == 14) {
      text += '4';
    } else {
      text += i == 19 ? kHex[8 + below(4)] : kHex[below(16)];
    }
  }
  return text;
}

std::string Draws::word() { return one_of(adjectives()) + "-" + one_of(nouns()); }

const std::vector<std::string>& adjectives() {
  static const std::vector<std::string> words = split_words(
      "able afraid ancient angry bitter blank bold brave brief bright broad broken busy calm "
      "careful cheap clean clear clever cloudy cold common cool crisp crowded curious curved damp "
      "dark deep dense distant dry dull eager early easy empty equal exact faint fair famous fast "
      "fierce final firm flat fond fragile free fresh full gentle giant glad golden grand grave "
      "greasy green happy hard harsh heavy hidden high hollow honest humble icy idle jolly keen "
      "kind large late lazy level light lively lonely long loose loud loyal lucky mad major mild "
      "modern muddy narrow neat nervous new noble noisy odd old open orange pale plain polite poor "
      "proud quick quiet rare raw ready rich ripe rough round royal rural rusty sad salty scarce "
      "secret shallow sharp short shy silent silver simple slim slow small smart smooth soft solid "
      "sour spare square steady steep stiff strange strict strong sudden sweet swift tall tame "
      "thick "
      "thin tidy tight tiny tired tough urban vague vast violet warm weak weary wide wild windy "
      "wise "
      "wooden woolly yellow young");
  return words;
}

const std::vector<std::string>& nouns() {
  static const std::vector<std::string> words = split_words(
      "acorn actor anchor angle ankle apple apron arrow attic autumn badge bakery balcony ball "
      "banana barrel basket beach beacon bean bear bell bench bird blanket boat bone book bottle "
      "bowl branch bread brick bridge broom brush bucket butter button cabin cable cactus cage "
      "cake "
      "camel candle canyon carpet carrot castle cave cellar chain chair chalk cherry chest chimney "
      "church circle city clay cliff clock cloud coast coat coin collar comb copper corner cotton "
      "couch cousin crane crayon creek crown cup curtain desert desk dish doctor dog door dragon "
      "drawer dress drum duck eagle ear elbow engine farmer feather fence ferry field finger fire "
      "flag flame flour flower flute forest fork fountain fox frame frog garden gate ghost giraffe "
      "glass glove goat grape guitar hammer harbor hat hawk hedge helmet hill honey horse hotel "
      "house island jacket jar jewel judge jungle kettle key kitchen kite knife ladder lake lamp "
      "lantern leaf lemon letter library lion lizard lock magnet map marble market meadow medal "
      "melon mirror monkey moon mountain mouse museum nail needle nest notebook oak oar ocean "
      "office "
      "onion orchard otter oven owl oyster paddle page palace panda paper parrot path peach peanut "
      "pebble pencil piano picture pigeon pillow pilot pine pirate planet plate pocket pond potato "
      "prince puzzle quarry queen quilt rabbit radio rail rain raven ribbon ring river road robin "
      "rocket roof root rope rose ruler saddle sail sailor salad salt sand school scissors seal "
      "seed "
      "shadow shark sheep shelf shell ship shirt shoe shop shore shovel sister sleeve snail snake "
      "snow soap sock soldier spider spoon spring stable stairs star station statue stone stool "
      "storm stove street string student sugar summer swan table tailor teacher temple tent thumb "
      "tiger toast tomato tower town tractor train tree trumpet tunnel turtle uncle valley vase "
      "village violin wagon wall walnut watch water wave weasel whale wheat wheel whistle window "
      "winter witness wolf wood wool yard zebra");
  return words;
}

}  // namespace sidewinder
