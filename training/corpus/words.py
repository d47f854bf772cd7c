"""The words of the small world: people, animals, places, things and what is true of them."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GIRLS = _words(
    "Mia Anna Lily Rosa Emma Nora Sara Ella Ruby Lucy Clara Ivy Maya Zoe Ada Nina Olga Vera"
    " Eva Kate Jane Alice Grace Hanna Iris Julia"
)
BOYS = _words(
    "Tom Ben Max Leo Sam Jack Finn Oscar Paul Ivan Hugo Adam Noah Luke Peter Karl Felix Emil"
    " Omar Dan Will Henry Oliver Jonas Theo Marco"
)
NAMES = GIRLS + BOYS

SYLLABLES = _words("ba be da di do fa ga ka ki la le li lo ma mi mo na ni no ra ri ro sa ta to va")
"""Of which names are made that nobody has: they can only be copied."""

COLOURS = _words("red blue green yellow white black brown orange purple pink")
SIZES = ("small", "big", "little", "old", "new", "round", "pretty", "shiny")
FEELINGS = ("happy", "proud", "glad", "cheerful")

ANIMALS = _words(
    "cat dog bird rabbit fox mouse duck horse frog bear owl sheep goat hen turtle pig cow"
)
PETS = ("cat", "dog", "bird", "rabbit", "mouse", "duck", "frog", "turtle")
PET_NAMES = _words("Rex Kitty Spot Fluffy Coco Pip Biscuit Sunny Luna Bruno Daisy Peanut")

THINGS = _words(
    "ball kite book hat key drum boat cup lamp doll bell coin spoon basket scarf flute ring map"
    " puzzle box blanket bottle stone feather"
)
FOODS = _words("apple pear cake pie banana orange carrot bun cookie plum sandwich tomato potato")
DRINKS = ("milk", "tea", "water", "juice", "cocoa")
PLACES = _words(
    "park garden forest village school market beach farm kitchen library river hill barn"
    " town castle lake"
)
ROOMS = ("kitchen", "bedroom", "bathroom", "hall", "office", "cellar", "attic")
CITIES = _words(
    "Paris London Rome Berlin Oslo Madrid Vienna Cairo Tokyo Delhi Lima Moscow Athens Dublin"
    " Lisbon Prague Warsaw Boston Sydney Toronto Helsinki Kyoto Geneva Naples"
)
JOBS = _words("baker teacher doctor farmer sailor painter cook singer gardener driver")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = _words(
    "January February March April May June July August September October November December"
)
SEASONS = ("spring", "summer", "autumn", "winter")
LANGUAGES = ("French", "German", "Spanish", "Italian", "Russian", "Greek")
SONGS = ("jazz", "rock", "piano", "folk", "opera", "dance")
SECRETS = _words("river moon tiger cloud silver winter music garden honey thunder mirror candle")

ONES = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    " fifteen sixteen seventeen eighteen nineteen"
)
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("day", "night"), ("happy", "sad"),
    ("fast", "slow"), ("open", "closed"), ("full", "empty"), ("old", "young"), ("wet", "dry"),
    ("hard", "soft"), ("light", "dark"), ("long", "short"), ("left", "right"), ("good", "bad"),
    ("early", "late"), ("loud", "quiet"), ("high", "low"), ("clean", "dirty"), ("rich", "poor"),
    ("strong", "weak"), ("first", "last"), ("near", "far"), ("in", "out"), ("thick", "thin"),
)  # fmt: skip
SOUNDS = {
    "cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink",
    "frog": "ribbit", "owl": "hoot", "hen": "cluck", "bird": "tweet", "horse": "neigh",
}  # fmt: skip
LEGS = {
    "cat": 4, "dog": 4, "cow": 4, "horse": 4, "bird": 2, "duck": 2, "hen": 2, "spider": 8,
    "fly": 6, "fish": 0, "snake": 0, "pig": 4, "sheep": 4, "owl": 2, "bee": 6, "child": 2,
}  # fmt: skip
HOMES = {
    "bird": "a nest", "bee": "a hive", "fish": "the water", "cow": "a barn", "fox": "a den",
    "rabbit": "a burrow", "horse": "a stable", "bear": "a cave", "dog": "a kennel",
}  # fmt: skip
BABIES = {
    "cat": "kitten", "dog": "puppy", "cow": "calf", "sheep": "lamb", "horse": "foal",
    "duck": "duckling", "hen": "chick", "pig": "piglet", "bear": "cub", "goat": "kid",
}  # fmt: skip
TINTS = {
    "grass": "green", "snow": "white", "the sky": "blue", "a banana": "yellow", "coal": "black",
    "a tomato": "red", "a carrot": "orange", "chocolate": "brown", "milk": "white",
    "the sun": "yellow", "a leaf": "green", "blood": "red", "the sea": "blue",
}  # fmt: skip
CAPITALS = {
    "France": "Paris", "England": "London", "Italy": "Rome", "Germany": "Berlin",
    "Norway": "Oslo", "Spain": "Madrid", "Austria": "Vienna", "Egypt": "Cairo",
    "Japan": "Tokyo", "Peru": "Lima", "Russia": "Moscow", "Greece": "Athens",
    "Ireland": "Dublin", "Portugal": "Lisbon", "Poland": "Warsaw",
}  # fmt: skip
UNKNOWN = _words(
    "physics politics football computers medicine history banking poetry philosophy chemistry"
    " Java Python Linux economics dinosaurs rockets robots volcanoes planets lawyers taxes"
    " television internet movies war God love money quantum atoms religion insurance"
)
"""What lies outside of the world."""

RARE = _words(
    "rock metal blues pop punk soul swing salsa tango disco march waltz gospel choir harp violin"
    " trumpet guitar organ banjo marble pencil ladder button candle carpet helmet ticket hammer"
    " rocket wallet pepper lemon cherry walnut onion garlic butter sugar coffee honey lizard parrot"
    " tiger camel whale eagle mayor pilot dentist miner tailor"
)
"""Words for the arguments of functions that the rest of the corpus hardly has."""

ONSETS = (
    "", "b", "br", "c", "ch", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m",
    "n", "p", "pl", "qu", "r", "s", "sh", "sk", "st", "t", "th", "tr", "v", "w", "y", "z",
)  # fmt: skip
VOWELS = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "ee", "oo", "ou")
CODAS = (
    "", "", "", "b", "ck", "d", "f", "g", "ll", "lt", "m", "n", "nd", "nk", "p", "r", "rd", "rk",
    "s", "sh", "sk", "ss", "st", "t", "th", "x", "zz",
)  # fmt: skip
"""Of these, syllables are made up of all the letters there are."""


def with_article(noun: str) -> str:
    """The noun after `a` or `an`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


_PREPOSITIONS = {
    "hill": "on", "beach": "on", "farm": "on", "market": "at", "school": "at", "lake": "at",
    "river": "at",
}  # fmt: skip


def at(place: str) -> str:
    """Where somebody is who is there."""
    return f"{_PREPOSITIONS.get(place, 'in')} the {place}"


def plural(noun: str) -> str:
    """More than one of it."""
    if noun.endswith(("x", "ss", "ch", "sh")) or noun in ("tomato", "potato"):
        return noun + "es"
    return {"mouse": "mice", "sheep": "sheep"}.get(noun, noun + "s")


def counted(number: int, noun: str) -> str:
    """A number of them, in digits."""
    return f"{number} {noun if number == 1 else plural(noun)}"


def spelled(number: int) -> str:
    """A number from 0 to 100 in words."""
    if number == 100:
        return "one hundred"
    if number < len(ONES):
        return ONES[number]
    tens, rest = divmod(number, 10)
    return TENS[tens] + (f"-{ONES[rest]}" if rest else "")


def listed(items: list[str]) -> str:
    """Items in a sentence: a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
