"""Short stories: a child, a thing or an animal, a place, a small trouble and a good end.

Each plot is a list of sentences with a few ways to say each; what happens first decides what can
happen later, so every story makes sense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from training.corpus import words
from training.corpus.document import Conversation, Story, assistant, exchange, user
from training.corpus.draw import Draw


@dataclass(frozen=True)
class Cast:
    """Who and what a story is about, as its sentences need it."""

    hero: str
    friend: str
    thing: str
    colour: str
    place: str
    animal: str
    food: str
    size: str
    feeling: str
    is_girl: bool
    friend_is_girl: bool

    @property
    def values(self) -> dict[str, str]:
        """What stands in the place of each {name} of a sentence."""
        fields = {
            "hero": self.hero,
            "friend": self.friend,
            "thing": self.thing,
            "colour": self.colour,
            "place": self.place,
            "animal": self.animal,
            "food": self.food,
            "size": self.size,
            "feeling": self.feeling,
        }
        fields["at"] = words.at(self.place)
        pronouns = ("she", "her", "her") if self.is_girl else ("he", "his", "him")
        fields |= dict(zip(("he", "his", "him"), pronouns, strict=True))
        others = ("she", "her", "her") if self.friend_is_girl else ("he", "his", "him")
        fields |= dict(zip(("fhe", "fhis", "fhim"), others, strict=True))
        capitals = {
            name.capitalize(): f"{text[0].upper()}{text[1:]}" for name, text in fields.items()
        }
        articles = {f"a_{name}": words.with_article(text) for name, text in fields.items()}
        return fields | capitals | articles


_OPENINGS = (
    "Once upon a time there was a {kind} called {hero}.",
    "There once was a {kind} whose name was {hero}.",
    "{hero} was a {kind} who lived near the {place}.",
    "One day a {kind} called {hero} went to the {place}.",
)

_ENDINGS = (
    "{Hero} was very {feeling}.",
    "It was a good day.",
    "{Hero} smiled all the way home.",
    "{Hero} and {friend} were the best of friends.",
    "That night {hero} slept very well.",
    "{Hero} never forgot that day.",
)

Plot = tuple[tuple[str, ...], ...]

_LOST: Plot = (
    (
        "{He} had {a_colour} {thing} and took it everywhere.",
        "{He} loved {his} {colour} {thing} more than any other toy.",
    ),
    ("One morning the {thing} was gone.", "But one day {he} could not find the {thing}."),
    (
        "{Hero} looked under the bed and behind the door, but it was not there.",
        "{He} looked in every room. The {thing} was not in the house.",
    ),
    (
        '"Do not cry," said {friend}. "I will help you."',
        '{Friend} came and said, "Let us look for it together."',
    ),
    (
        "They went to the {place} and looked under a big tree.",
        "They walked to the {place} and looked everywhere.",
    ),
    (
        "There was the {colour} {thing}! {A_animal} was sitting next to it.",
        "{A_animal} had found the {thing} and kept it safe.",
    ),
    ('"Thank you," said {hero}.', "{Hero} thanked {friend} and gave {fhim} a hug."),
)
_SHARE: Plot = (
    ("One day {hero} had {a_food} in {his} bag.", "{His} mother gave {him} {a_food} for lunch."),
    (
        "{At} {he} met {friend}, who was hungry.",
        "{He} sat down {at} and saw {friend}, who had nothing to eat.",
    ),
    ("{Hero} thought for a moment.", "At first {hero} wanted to eat it all."),
    (
        "Then {he} cut the {food} in two and gave {friend} one half.",
        'Then {he} said, "Take half of my {food}."',
    ),
    ('"You are very kind," said {friend}.', "{Friend} was glad and said thank you."),
    (
        "The next day {friend} gave {hero} {a_colour} {thing}.",
        "Later {friend} let {hero} play with {fhis} {colour} {thing}.",
    ),
)
_ANIMAL: Plot = (
    ("{At} {he} saw {a_size} {animal}.", "{He} heard a sound {at}. It was {a_size} {animal}."),
    ("The {animal} was cold and wet.", "The {animal} was hungry and afraid."),
    ('"Do not be afraid," said {hero}.', "{Hero} sat down and waited."),
    (
        "{He} gave the {animal} a piece of {food} and a warm blanket.",
        "{He} put {his} coat around the {animal} and gave it a piece of {food}.",
    ),
    ("Soon the {animal} felt better.", "After a while the {animal} came closer."),
    (
        "From then on the {animal} came to see {hero} every day.",
        "The {animal} followed {hero} home and stayed.",
    ),
    (
        "{Friend} came to see it too, and they all played in the sun.",
        "{Hero} showed the {animal} to {friend}, and they played until night.",
    ),
)
_GIFT: Plot = (
    (
        "It was the birthday of {friend}.",
        "{Friend} had a birthday, and {hero} wanted to give {fhim} something.",
    ),
    ("{Hero} had no money.", "{Hero} did not have one coin."),
    (
        "So {he} went to the {place} and found {a_size} {thing}.",
        "So {he} took an old {thing} and began to work.",
    ),
    ("{He} painted it {colour}.", "{He} cleaned it and painted it {colour}."),
    ('"I made this for you," said {hero}.', "Then {he} gave the {colour} {thing} to {friend}."),
    ("{Friend} laughed and jumped with joy.", '"It is the best gift of all!" said {friend}.'),
    ("They ate {a_food} and sang songs.", "Then they danced with the {animal} until it was dark."),
)
_RAIN: Plot = (
    (
        "{Hero} and {friend} were playing with {a_colour} {thing}.",
        "{He} was {at} with {friend} and {a_size} {thing}.",
    ),
    ("Then dark clouds came, and it began to rain.", "Suddenly it began to rain very hard."),
    ("They ran under a big tree.", "They ran to an old house and went inside."),
    ("There they met {a_animal} who was wet too.", "{A_animal} was hiding there from the rain."),
    ('"Let us wait together," said {hero}.', '"We can tell stories," said {friend}.'),
    ("They ate {a_food} and waited.", "{Hero} had {a_food}, and they all ate."),
    (
        "At last the sun came out, and the sky was blue.",
        "When the rain stopped, they saw the sun again.",
    ),
)
_LEARN: Plot = (
    (
        "{Hero} wanted to learn how to play the {skill}.",
        "More than anything {he} wanted to play the {skill}.",
    ),
    ("At first it was very hard.", "The first try did not go well."),
    ('{Friend} said, "Try again tomorrow."', '"Do not stop," said {friend}. "You can do it."'),
    (
        "Every day {hero} went to the {place} and tried again.",
        "{Hero} tried every day {at}, and only {a_animal} was listening.",
    ),
    ("Slowly it became better.", "Each day it was a little better."),
    (
        "One day {he} played for the whole town.",
        "At last {he} played for {friend} and all the others.",
    ),
    (
        "Everybody clapped, and {friend} gave {him} {a_colour} {thing}.",
        "People were so glad that they gave {him} {a_food} and {a_colour} {thing}.",
    ),
)

PLOTS = (_LOST, _SHARE, _ANIMAL, _GIFT, _RAIN, _LEARN)
SKILLS = ("drum", "flute", "piano", "violin")


def cast(draw: Draw, choose: Callable[[Draw], dict[str, str]] = lambda _: {}) -> Cast:
    """People and things for one story; hero, thing and place together are on the draw's side.

    `choose` draws what the story has to be about.
    """

    def make() -> dict[str, str]:
        drawn = {
            "hero": draw.one(words.NAMES),
            "thing": draw.one(words.THINGS),
            "place": draw.one(words.PLACES),
            "animal": draw.one(words.ANIMALS),
        }
        return drawn | choose(draw)

    chosen = draw.fresh(make, lambda made: (made["hero"], made["thing"], made["place"]))
    hero, thing, place = chosen["hero"], chosen["thing"], chosen["place"]
    friend = draw.one([name for name in words.NAMES if name != hero])
    return Cast(
        hero,
        friend,
        thing,
        draw.one(words.COLOURS),
        place,
        chosen["animal"],
        draw.one(words.FOODS),
        draw.one(words.SIZES),
        draw.one(words.FEELINGS),
        hero in words.GIRLS,
        friend in words.GIRLS,
    )


def told(draw: Draw, who: Cast, plot: Plot) -> str:
    """The story of that plot."""
    return " ".join(_sentences(draw, who, plot))


def _sentences(draw: Draw, who: Cast, plot: Plot) -> list[str]:
    kind = draw.one(("girl", "little girl")) if who.is_girl else draw.one(("boy", "little boy"))
    values = who.values | {"kind": kind, "skill": draw.one(SKILLS)}
    values |= {"A_animal": values["a_animal"].capitalize()}
    sentences = [draw.one(_OPENINGS), *(draw.one(ways) for ways in plot), draw.one(_ENDINGS)]
    return [sentence.format(**values) for sentence in sentences]


def story(draw: Draw) -> Story:
    """A story as plain text."""
    return Story(told(draw, cast(draw), draw.one(PLOTS)))


_ASKED: tuple[tuple[str, Callable[[Draw], dict[str, str]]], ...] = (
    ("about {a_animal}", lambda draw: {"animal": draw.one(words.ANIMALS)}),
    ("about {hero}", lambda draw: {"hero": draw.one(words.NAMES)}),
    ("about a {thing}", lambda draw: {"thing": draw.one(words.THINGS)}),
    (
        "about {hero} and a {thing}",
        lambda draw: {"hero": draw.one(words.NAMES), "thing": draw.one(words.THINGS)},
    ),
    ("about {friend} and {hero}", lambda draw: {"hero": draw.one(words.NAMES)}),
    ("that happens {at}", lambda draw: {"place": draw.one(words.PLACES)}),
    ("", lambda _: {}),
)

_ASKING = (
    "Tell me a story{about}.",
    "Please tell me a short story{about}.",
    "Write a story{about}.",
    "Can you tell me a story{about}?",
    "I want to hear a story{about}.",
    "tell me a story{about}",
    "Write a short story{about}.",
    "A story{about}, please.",
)


def asked_story(draw: Draw) -> Conversation:
    """A story that the user asks for, about what the user names."""
    about, choose = draw.one(_ASKED)
    who = cast(draw, choose)
    plot = draw.one((_ANIMAL, _LOST, _RAIN)) if "animal" in about else draw.one(PLOTS)
    if "thing" in about:
        plot = draw.one((_LOST, _SHARE, _GIFT))
    text = about.format(**who.values)
    question = draw.one(_ASKING).format(about=f" {text}" if text else "")
    return Conversation(
        "story request", [user(question), assistant(told(draw, who, plot))], who.hero
    )


_GOING_ON = ("{}", "Go on: {}", "Continue this story: {}", "{}\nHow does the story go on?")


def begun_story(draw: Draw) -> Conversation:
    """A story that the user begins, with one sentence or with four words."""
    who = cast(draw)
    first, *rest = _sentences(draw, who, draw.one(PLOTS))
    if draw.chance(0.2):
        question = draw.one(("Once upon a time", "Once upon a time...", "once upon a time"))
        return exchange("story request", question, " ".join([first, *rest]), who.hero)
    return exchange("story request", draw.one(_GOING_ON).format(first), " ".join(rest), who.hero)
