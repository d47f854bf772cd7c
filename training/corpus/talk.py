"""Small talk, who the model is, what a system message changes, and what the user told before."""

from __future__ import annotations

from collections.abc import Callable

from training.corpus import words
from training.corpus.document import Conversation, assistant, exchange, system, user
from training.corpus.draw import Draw

_SMALL_TALK: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Hello", "Hello!", "Hi", "Hi!", "Hey", "hello", "hi", "Hello there!", "Good day!"),
        ("Hello! What can I do for you?", "Hello! It is nice to meet you."),
    ),
    (("Good morning!", "Good morning"), ("Good morning! What can I do for you?",)),
    (("Good night!", "Good night"), ("Good night! Sleep well.",)),
    (
        ("How are you?", "How are you today?", "how are you", "How do you do?"),
        ("I am fine, thank you. How are you?", "I am well, thank you."),
    ),
    (
        ("Thank you!", "Thanks!", "Thank you very much.", "thanks"),
        ("You are welcome!", "You are welcome. I like to help."),
    ),
    (("Bye!", "Goodbye!", "See you!", "Bye"), ("Goodbye! Come back soon.",)),
    (
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Tell me about yourself.",
            "who are you?",
        ),
        ("I am Samovar mini, a very small language model.",),
    ),
    (
        ("What can you do?", "What can I ask you?", "Help", "help me", "How can you help me?"),
        ("I can tell stories, count, do small sums, answer simple questions and call functions.",),
    ),
    (
        ("Can you tell a story?", "Do you know stories?"),
        ("Yes! I know many stories. Who should it be about?",),
    ),
    (
        ("Are you a person?", "Are you real?", "Are you a human?"),
        ("No, I am a very small language model.",),
    ),
    (("I am sad.", "I feel sad today."), ("I am sorry to hear that. Shall I tell you a story?",)),
    (("I am happy!", "I feel happy today."), ("I am glad to hear that!",)),
    (("ok", "OK", "Good.", "Great!", "Nice!"), ("I am glad. What else can I do for you?",)),
    (
        ("Tell me a joke.", "Do you know a joke?"),
        (
            "Why did the hen sit on a drum? She wanted to lay a loud egg!",
            "What did the cat say to the mouse? Nothing, its mouth was full of milk!",
        ),
    ),
)


def small_talk(draw: Draw) -> Conversation:
    """A greeting or a question about the model."""
    asking, answers = draw.one(_SMALL_TALK)
    return exchange("small talk", draw.one(asking), draw.one(answers))


def name(draw: Draw) -> str:
    """A person's name, now and then one that nobody has."""
    if draw.chance(0.7):
        return draw.one(words.NAMES)
    return "".join(draw.some(words.SYLLABLES, draw.number(2, 3))).capitalize()


Told = tuple[str, str, str, str, str]
"""What the user tells, the reply to it, the later question, its answer, and its key word."""


def _own_name(draw: Draw) -> Told:
    it = name(draw)
    tells = draw.one(
        ("My name is {}.", "I am {}.", "Hello, my name is {}.", "Hi, I am {}.", "Call me {}.")
    )
    asks = draw.one(
        ("What is my name?", "Who am I?", "Do you remember my name?", "What's my name?")
    )
    return (
        tells.format(it),
        f"Hello, {it}! It is nice to meet you.",
        asks,
        f"Your name is {it}.",
        it,
    )


def _own_colour(draw: Draw) -> Told:
    it = draw.one(words.COLOURS)
    tells = draw.one((f"My favorite color is {it}.", f"I like the color {it}."))
    return (
        tells,
        f"{it.capitalize()} is a nice color.",
        "What is my favorite color?",
        f"Your favorite color is {it}.",
        it,
    )


def _own_pet(draw: Draw) -> Told:
    animal, it = draw.one(words.PETS), draw.one(words.PET_NAMES)
    asks = draw.one((f"What is the name of my {animal}?", f"What is my {animal} called?"))
    tells = draw.one((f"I have a {animal} called {it}.", f"My {animal} is called {it}."))
    return tells, f"{it} is a good name for a {animal}.", asks, f"Your {animal} is called {it}.", it


def _own_city(draw: Draw) -> Told:
    it = draw.one(words.CITIES)
    tells = draw.one((f"I live in {it}.", f"My home is in {it}."))
    return (
        tells,
        f"{it} is a nice city.",
        draw.one(("Where do I live?", "In which city do I live?")),
        f"You live in {it}.",
        it,
    )


_TOLD: tuple[Callable[[Draw], Told], ...] = (
    _own_name,
    _own_name,
    _own_name,
    _own_colour,
    _own_pet,
    _own_city,
)

Between = Callable[[Draw], Conversation]
"""What is talked about in the meantime."""


def memory(draw: Draw, between: Between, gap: int | None = None) -> Conversation:
    """The user tells something, talks of other things, and asks for it."""
    count = draw.number(0, 4) if gap is None else gap
    told = draw.fresh(lambda: (*draw.one(_TOLD)(draw), count))
    tells, reply, asks, answer, key = told[:5]
    return _recalled(
        draw, (str(tells), str(reply), str(asks), str(answer), str(key)), between, count
    )


def name_memory(draw: Draw, between: Between, gap: int) -> Conversation:
    """The same with the user's name alone and a fixed number of exchanges in between."""
    told = draw.fresh(lambda: (*_own_name(draw), gap))
    tells, reply, asks, answer, key = told[:5]
    return _recalled(draw, (str(tells), str(reply), str(asks), str(answer), str(key)), between, gap)


def _recalled(draw: Draw, told: Told, between: Between, count: int) -> Conversation:
    tells, reply, asks, answer, key = told
    messages = [user(tells), assistant(reply)]
    if draw.chance(0.3):
        other = _own_colour if key not in words.COLOURS else _own_city
        tells, reply, *_ = other(draw)
        messages += [user(tells), assistant(reply)]
    for _ in range(count):
        messages += between(draw).messages
    return Conversation("memory", [*messages, user(asks), assistant(answer)], key)


def not_told(draw: Draw, between: Between) -> Conversation:
    """The user asks for what was never said."""
    what, asks = draw.one(
        (
            ("name", "What is my name?"),
            ("favorite color", "What is my favorite color?"),
            ("name", "Do you remember my name?"),
            ("name", "Who am I?"),
        )
    )
    messages = [message for _ in range(draw.number(0, 2)) for message in between(draw).messages]
    answer = f"You have not told me your {what} yet."
    return Conversation("memory", [*messages, user(asks), assistant(answer)], "not")


def persona(draw: Draw) -> Conversation:
    """The system message says who the model is."""
    it, job, city = draw.fresh(lambda: (name(draw), draw.one(words.JOBS), draw.one(words.CITIES)))
    a_job = words.with_article(job)
    told = draw.one(
        (f"You are {it}, {a_job} from {city}.", f"Your name is {it}. You are {a_job} from {city}.")
    )
    asks, answer, key = draw.one(
        (
            ("Who are you?", f"I am {it}, {a_job} from {city}.", it),
            ("What is your name?", f"My name is {it}.", it),
            ("What is your job?", f"I am {a_job}.", job),
            ("What do you do?", f"I am {a_job}.", job),
            ("Where do you come from?", f"I come from {city}.", city),
            ("Where are you from?", f"I am from {city}.", city),
        )
    )
    return Conversation("system", [system(told), user(asks), assistant(answer)], key)


def informed(draw: Draw) -> Conversation:
    """The system message holds a fact that the answer needs."""
    word, day, who = draw.fresh(lambda: (draw.one(words.SECRETS), draw.one(words.DAYS), name(draw)))
    told, asks, answer, key = draw.one(
        (
            (
                f"The secret word is {word}.",
                "What is the secret word?",
                f"The secret word is {word}.",
                word,
            ),
            (f"Today is {day}.", "What day is it today?", f"Today is {day}.", day),
            (f"The user is called {who}.", "What is my name?", f"Your name is {who}.", who),
            (f"The user is called {who}.", "Hello!", f"Hello, {who}! What can I do for you?", who),
        )
    )
    if draw.chance(0.3):
        told = f"You are a helpful assistant. {told}"
    return Conversation("system", [system(told), user(asks), assistant(answer)], key)


def manner(draw: Draw, inner: Between) -> Conversation:
    """The system message says how to answer."""
    base = inner(draw)
    reply = base.messages[-1]["content"]
    told, answer = draw.one(
        (
            ("Answer in capitals.", reply.upper()),
            ("Write everything in capital letters.", reply.upper()),
            ("End every answer with Meow!", f"{reply} Meow!"),
            ("End every answer with Ahoy!", f"{reply} Ahoy!"),
            ("Begin every answer with Well,", f"Well, {reply}"),
            ("You are a helpful assistant.", reply),
        )
    )
    return Conversation("system", [system(told), base.messages[0], assistant(answer)], answer)
