"""The words of the demonstration task: what customers of an imaginary web shop write, and what its staff reply.

All of it was written for this project; nothing is taken from another data set. ``{item}``, ``{other}``, ``{price}``,
``{count}`` and ``{name}`` are filled by :mod:`objectives.demo.corpus`.
"""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """Clauses state the matter, in a form that fits into every frame; replies answer it without naming the label."""

    clauses: tuple[str, ...]
    replies: tuple[str, ...]


TOPICS: dict[str, Topic] = {
    "billing": Topic(
        (
            "my card was charged twice",
            "the invoice shows the wrong amount",
            "you took {price} for one {item}",
            "the bill lists a {item} I never had",
            "a fee was added to my order",
            "the total is higher than the price in the shop",
            "I paid {price} and the page asks for it again",
        ),
        (
            "We correct the invoice and send a new one.",
            "Our billing desk made a mistake and pays the amount back.",
            "We ask billing what was charged.",
        ),
    ),
    "delivery": Topic(
        (
            "my parcel has not arrived",
            "the tracking page has not moved for {count} days",
            "the {item} is still on its way",
            "the driver left the {item} at the wrong house",
            "nobody brought the {item} I paid for",
            "the courier never came",
            "the {item} is {count} days late",
        ),
        (
            "We ask the courier where the parcel is.",
            "The next delivery is tomorrow morning.",
            "Here is a new number for the delivery.",
        ),
    ),
    "refund": Topic(
        (
            "I sent the {item} back and got no money",
            "my money for the {item} has not come back",
            "you still owe me {price} for the {item}",
            "I want my money back for the {item}",
            "I returned the {item} and the {price} is missing",
            "nobody paid me back for the {item}",
            "I expect {price} from you for the {item} I returned",
        ),
        (
            "Your refund is on its way to your bank.",
            "We pay you back within five days.",
            "Your box is here and the refund follows.",
        ),
    ),
    "cancel": Topic(
        (
            "I want to stop my order",
            "I no longer need the {item} I ordered",
            "I ordered the {item} by mistake",
            "you should not send the {item}",
            "I ordered two and need only one {item}",
            "I want to drop the {item} from my order",
            "I changed my mind about the {item}",
        ),
        (
            "We stopped the order before it left.",
            "We cancel this, nothing will be sent or charged.",
            "We cancel it and take it off our list.",
        ),
    ),
    "login": Topic(
        (
            "my password does not work",
            "the page says my account is locked",
            "I cannot sign in to see my order",
            "the code you sent is not accepted",
            "I forgot my user name",
            "the link for a new password is dead",
            "the page asks for a code I never got",
        ),
        (
            "Try the login with this new password.",
            "Your login is open again.",
            "We sent you a fresh code by mail.",
        ),
    ),
    "fault": Topic(
        (
            "the {item} does not turn on",
            "the {item} has a crack",
            "the {item} makes a strange noise",
            "a part of the {item} is missing",
            "the {item} stopped after {count} days",
            "smoke came out of the {item}",
            "the {item} gets too hot",
        ),
        (
            "Please send us a photo of the fault.",
            "A technician will call you about the repair.",
            "We repair such a fault for free.",
        ),
    ),
    "exchange": Topic(
        (
            "the {item} is too small",
            "I got the {item} in the wrong colour",
            "I want a larger {item} instead",
            "I would like to swap the {item} for a {other}",
            "the {item} does not fit",
            "you sent a {item} and I ordered a {other}",
            "I need the {other} and not the {item}",
        ),
        (
            "Keep the box and we bring the right one.",
            "We exchange it, which size or colour should it be?",
            "The exchange leaves our house today.",
        ),
    ),
    "stock": Topic(
        (
            "I cannot find the {item} in the shop",
            "the {item} is sold out",
            "I wait for the {item} to be sold again",
            "I would like to know when the {item} is back",
            "the page will not let me order the {item}",
            "there is no {item} left",
            "the shop sells one {item} and I need {count}",
        ),
        (
            "New ones are in stock next week.",
            "We write to you as soon as we have it again.",
            "It will not be in stock again.",
        ),
    ),
}

#: Sentences that make a clause the reason for writing.
OPEN_FRAMES = (
    "{clause}",
    "{clause}",
    "{clause}, please help",
    "I write because {clause}",
    "the problem is that {clause}",
    "what can I do, {clause}",
    "sorry, but {clause}",
    "I am sorry to say that {clause}",
    "so now {clause}",
    "my problem today is this, {clause}",
)

#: Sentences that mention a clause which is settled, denied, or somebody else's: never the reason for writing.
CLOSED_FRAMES = (
    "last month I wrote that {clause}, but that is solved",
    "I do not claim that {clause}",
    "I thought that {clause}, but I was wrong",
    "you helped me when I wrote that {clause}",
    "a friend told me that {clause}, but that is not my case",
    "never mind my mail that {clause}",
    "{clause}, no, forget that",
    "my friend writes that {clause}, not me",
    "it is no longer true that {clause}",
    "{clause}, but that was last year",
)

GREETINGS = ("Hello.", "Hi.", "Dear team.", "Good morning.", "Hello {name}.", "Hi {name}.", "Hey.")
CLOSINGS = ("Thanks.", "Thank you.", "Regards.", "Best wishes, {name}.", "Please answer soon.")

ITEMS = (
    "lamp",
    "kettle",
    "jacket",
    "phone",
    "chair",
    "radio",
    "camera",
    "clock",
    "printer",
    "heater",
    "blender",
    "table",
    "tent",
    "bike",
    "watch",
    "speaker",
    "toaster",
    "helmet",
    "guitar",
    "backpack",
)
NAMES = ("Anna", "Omar", "Lucy", "Pedro", "Mei", "Jonas", "Nina", "Ravi", "Clara", "Tom")
COUNTS = ("two", "three", "four", "five", "six", "ten")
PRICES = ("10 euros", "25 euros", "40 euros", "60 euros", "99 euros")
